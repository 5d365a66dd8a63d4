/**
 * Mounts and devices of a container, as requested. Pure: whether sources exist, and what they are, is the engine's to find out.
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
 * Paths stay as given, since ContainerStatus shows them in that form.
 *
 * @param sandboxIds of the pod's user namespace, the only ones a mount can be shown with.
 * @throws {BerthError} INVALID_ARGUMENT for a mount that contradicts itself or the sandbox,
 *   FAILED_PRECONDITION `RROUnsupported: …` (the kubelet reads that word) where the kernel cannot mount recursively read-only.
 */
export function mountFrom(message: cri.Mount, facts: RequestFacts, sandboxIds?: IdMap): Mount {
  const containerPath = absolutePath('mounts: container_path', message.container_path);
  // It would lie over the root, where nothing sees it.
  if (posix.normalize(containerPath).replace(/\/+$/, '') === '') throw invalidArgument('mounts: container_path: nothing can be mounted on /');
  const image = message.image?.image ? imageVolume(containerPath, message.image.image, message) : undefined;
  const propagation = propagations[message.propagation ?? 'PROPAGATION_PRIVATE'];
  if (propagation === undefined) throw invalidArgument(`mount ${containerPath}: there is no propagation ${message.propagation}`);
  const mount = present({
    containerPath,
    image,
    // An image's layers are shown with the pod's ids in any case.
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
  if (!isReadonly) throw invalidArgument(`mount ${containerPath}: recursive_read_only needs readonly`);
  if (propagation !== 'private') throw invalidArgument(`mount ${containerPath}: recursive_read_only needs private propagation, not ${propagation}`);
  if (!facts.canMountRecursivelyReadonly) {
    throw new BerthError('FAILED_PRECONDITION', `RROUnsupported: mount ${containerPath}: this kernel cannot mount recursively read-only`);
  }
}

function mountOption(containerPath: string, option: string): Mount['options'][number] {
  if (option === 'noexec' || option === 'nodev' || option === 'nosuid') return option;
  throw invalidArgument(`mount ${containerPath}: mount option ${quoted(option)} is none of noexec, nodev and nosuid`);
}

function imageVolume(containerPath: string, requested: string, message: cri.Mount): ImageVolume {
  if (message.host_path) throw invalidArgument(`mount ${containerPath}: it has both an image and a host_path`);
  if (!message.readonly) throw invalidArgument(`mount ${containerPath}: an image is mounted read-only, but readonly is not set`);
  return { requested, subPath: withoutNul(`mount ${containerPath}: image_sub_path`, message.image_sub_path ?? '') };
}

function mappedIds(containerPath: string, { uidMappings = [], gidMappings = [] }: cri.Mount, sandboxIds: IdMap | undefined): IdMap | undefined {
  if (uidMappings.length + gidMappings.length === 0) return undefined;
  const ids = {
    uids: idRange(`mount ${containerPath}: uidMappings`, uidMappings),
    gids: idRange(`mount ${containerPath}: gidMappings`, gidMappings),
  };
  if (!isSameIds(ids, sandboxIds)) throw invalidArgument(`mount ${containerPath}: its mappings are not those of the sandbox's user namespace`);
  return ids;
}

/** @throws {BerthError} INVALID_ARGUMENT for paths that are not absolute, and for other permissions than r, w and m. */
export function deviceFrom(message: cri.Device): Device {
  const containerPath = absolutePath('devices: container_path', message.container_path);
  // Callers that leave it out expect a device that works.
  const permissions = message.permissions || 'rwm';
  if (!/^[rwm]{1,3}$/.test(permissions) || new Set(permissions).size !== permissions.length) {
    throw invalidArgument(`device ${containerPath}: permissions ${quoted(permissions)} are not a subset of rwm`);
  }
  return { containerPath, hostPath: absolutePath(`device ${containerPath}: host_path`, message.host_path), permissions };
}
