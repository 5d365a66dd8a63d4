/**
 * Converts the mounts and devices of a container. Pure: the engine checks that the sources exist.
 */
import { posix } from 'node:path';
import type { Device, IdMap, ImageVolume, Mount, Propagation } from '../../engine/state/spec.ts';
import { BerthError, invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { absolutePath, present, quoted, type RequestFacts, withoutNul } from './checks.ts';
import { idRange, isSameIds } from './namespaces-from-request.ts';

const propagations: Readonly<Record<cri.MountPropagation, Propagation>> = {
  PROPAGATION_PRIVATE: 'private',
  PROPAGATION_HOST_TO_CONTAINER: 'host-to-container',
  PROPAGATION_BIDIRECTIONAL: 'bidirectional',
};

/**
 * Paths are kept as given, because ContainerStatus returns them in that form.
 *
 * @param sandboxIds the id mappings of the pod's user namespace, the only ones that a mount can use.
 * @throws {BerthError} INVALID_ARGUMENT for invalid fields or conflicts with the sandbox,
 *   FAILED_PRECONDITION `RROUnsupported: …` (the kubelet parses this prefix) if the kernel does not support recursive read-only mounts.
 */
export function mountFrom(message: cri.Mount, facts: RequestFacts, sandboxIds?: IdMap): Mount {
  const containerPath = absolutePath('mounts: container_path', message.container_path);
  // It would be mounted over the root, where nothing sees it.
  if (posix.normalize(containerPath).replace(/\/+$/, '') === '') throw invalidArgument('mounts: container_path: must not be /');
  const image = message.image?.image ? imageVolume(containerPath, message.image.image, message) : undefined;
  const propagation = propagations[message.propagation ?? 'PROPAGATION_PRIVATE'];
  if (propagation === undefined) throw invalidArgument(`mount ${containerPath}: unknown propagation ${message.propagation}`);
  const mount = present({
    containerPath,
    image,
    // The layers of an image are always mapped to the pod's ids.
    ids: image === undefined ? mappedIds(containerPath, message, sandboxIds) : undefined,
    hostPath: image === undefined ? absolutePath(`mount ${containerPath}: host_path`, message.host_path) : '',
    isReadonly: message.readonly ?? false,
    isRecursiveReadonly: message.recursive_read_only ?? false,
    propagation,
    wantsSelinuxRelabel: message.selinux_relabel ?? false,
    options: (message.mount_options ?? []).map((option) => mountOption(containerPath, option)),
  });
  if (mount.isRecursiveReadonly) checkRecursiveReadonly(mount, facts);
  return mount;
}

function checkRecursiveReadonly({ containerPath, isReadonly, propagation }: Mount, facts: RequestFacts): void {
  if (!isReadonly) throw invalidArgument(`mount ${containerPath}: recursive_read_only requires readonly`);
  if (propagation !== 'private')
    throw invalidArgument(`mount ${containerPath}: recursive_read_only requires private propagation, not ${propagation}`);
  if (!facts.canMountRecursivelyReadonly) {
    throw new BerthError('FAILED_PRECONDITION', `RROUnsupported: mount ${containerPath}: this kernel does not support recursive read-only mounts`);
  }
}

function mountOption(containerPath: string, option: string): Mount['options'][number] {
  if (option === 'noexec' || option === 'nodev' || option === 'nosuid') return option;
  throw invalidArgument(`mount ${containerPath}: unknown mount option ${quoted(option)}, must be noexec, nodev or nosuid`);
}

function imageVolume(containerPath: string, requested: string, message: cri.Mount): ImageVolume {
  if (message.host_path) throw invalidArgument(`mount ${containerPath}: has both an image and a host_path`);
  if (!message.readonly) throw invalidArgument(`mount ${containerPath}: an image volume requires readonly`);
  return { requested, subPath: withoutNul(`mount ${containerPath}: image_sub_path`, message.image_sub_path ?? '') };
}

function mappedIds(containerPath: string, { uidMappings = [], gidMappings = [] }: cri.Mount, sandboxIds: IdMap | undefined): IdMap | undefined {
  if (uidMappings.length + gidMappings.length === 0) return undefined;
  const ids = {
    uids: idRange(`mount ${containerPath}: uidMappings`, uidMappings),
    gids: idRange(`mount ${containerPath}: gidMappings`, gidMappings),
  };
  if (!isSameIds(ids, sandboxIds)) throw invalidArgument(`mount ${containerPath}: id mappings differ from those of the sandbox's user namespace`);
  return ids;
}

/** @throws {BerthError} INVALID_ARGUMENT for paths that are not absolute, and for permissions other than r, w and m. */
export function deviceFrom(message: cri.Device): Device {
  const containerPath = absolutePath('devices: container_path', message.container_path);
  // Callers that omit the permissions expect full access.
  const permissions = message.permissions || 'rwm';
  if (!/^[rwm]{1,3}$/.test(permissions) || new Set(permissions).size !== permissions.length) {
    throw invalidArgument(`device ${containerPath}: permissions ${quoted(permissions)} are not a subset of rwm`);
  }
  return { containerPath, hostPath: absolutePath(`device ${containerPath}: host_path`, message.host_path), permissions };
}
