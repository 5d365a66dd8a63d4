/**
 * Opens a container's volumes on the host: each source as a detached clone of its mount tree, checked against the request.
 */
import { fstatSync, openSync, readFileSync, realpathSync } from 'node:fs';
import { BerthError, failedPrecondition, invalidArgument, unusable } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { type MountInfo, mountOf, parseMountInfo } from '../../sys/call/proc.ts';
import { close } from '../../sys/call/syscalls.ts';
import { makeDirectories } from '../../sys/filesystem/files.ts';
import { cloneIdmapped, cloneTree } from '../../sys/mount/mounts.ts';
import { MOUNT_ATTR, MS } from '../plan/abi.ts';
import type { RootMount } from '../plan/mounts.ts';
import type { Shelf } from '../rootfs/overlay-rootfs.ts';
import type { ImageVolume, Mount } from '../state/spec.ts';
import { openImageVolume } from './image-volumes.ts';
import type { Registers } from './registers.ts';

export type VolumeFacts = {
  readonly canMountRecursivelyReadonly: boolean;
  /** Whether missing sources are created: only in CreateContainer. At start the source has disappeared, and may not have been a directory. */
  readonly makesMissing: boolean;
  /** Directories with berth's own mounts. A volume that contains them must propagate their unmounts. */
  readonly ownDirs: readonly string[];
  readonly shelf: Shelf;
  /** Path of the pod's pinned user namespace. */
  readonly userNamespace?: string;
};

/**
 * Opens the sources as registers.
 *
 * @throws {BerthError} INVALID_ARGUMENT or FAILED_PRECONDITION, naming the volume. Sources that were already opened stay in `registers`.
 */
export function openVolumes(facts: VolumeFacts, mounts: readonly Mount[], registers: Registers): RootMount[] {
  const needsTable = mounts.some((mount) => mount.propagation !== 'private');
  const table = needsTable ? parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')) : [];
  return mounts.map((mount, i) => {
    try {
      return openVolume(facts, table, mount, `volume${i}`, registers);
    } catch (error) {
      if (error instanceof BerthError) throw error;
      throw unusable(`mount ${mount.image?.requested ?? mount.hostPath} on ${mount.containerPath}`, error);
    }
  });
}

function openVolume(facts: VolumeFacts, table: readonly MountInfo[], mount: Mount, name: string, registers: Registers): RootMount {
  if (mount.image !== undefined) return openImage(facts, mount, mount.image, name, registers);
  const source = resolveSource(mount, facts.makesMissing && mount.mustExist !== true);
  checkReadonly(facts, mount);
  checkPropagation(table, mount, source);
  const reg = registers.add(name, cloneSource(facts, mount, source));
  const isDirectory = fstatSync(registers.fdOf(reg)).isDirectory();
  return {
    target: mount.containerPath,
    isDirectory,
    source: { kind: 'inherited', reg },
    attributes: attributesOf(mount),
    isRecursive: mount.isRecursiveReadonly,
    propagation: propagationOf(facts, mount, source),
    showsKernel: /^\/(?:(?:proc|sys)(?:\/.*)?)?$/.test(source),
  };
}

function openImage(facts: VolumeFacts, mount: Mount, image: ImageVolume, name: string, registers: Registers): RootMount {
  return {
    target: mount.containerPath,
    isDirectory: true,
    source: { kind: 'inherited', reg: registers.add(name, openImageVolume(facts, image)) },
    attributes: attributesOf(mount) | MOUNT_ATTR.RDONLY,
    isRecursive: false,
    propagation: MS.PRIVATE,
  };
}

/** Clones the source with its submounts. In a user namespace all of them must be ID-mapped: an unmapped part would have no owner in the container. */
function cloneSource(facts: VolumeFacts, mount: Mount, source: string): number {
  const isRecursive = mount.isShallow !== true;
  if (mount.ids === undefined) return cloneTree(source, { isRecursive });
  if (facts.userNamespace === undefined) throw invalidArgument(`mount on ${mount.containerPath}: ID mappings need a pod with a user namespace`);
  const userNamespace = openSync(facts.userNamespace, 'r');
  try {
    return cloneIdmapped(source, { userNamespace, isRecursive });
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw error;
    throw failedPrecondition(
      `mount ${mount.hostPath} on ${mount.containerPath}: the file system of ${mount.hostPath}, or one mounted below it, does not support ID-mapped mounts; use another file system, or hostUsers: true`,
      error,
    );
  } finally {
    close(userNamespace);
  }
}

/** Resolves links on the host, which the pod's author controls. Creates a missing source, as containerd and CRI-O do. */
function resolveSource(mount: Mount, makesMissing: boolean): string {
  try {
    return realpathSync(mount.hostPath);
  } catch (error) {
    if (!makesMissing || !isErrno(error, 'ENOENT')) throw error;
    makeDirectories(mount.hostPath, 0o755);
    return realpathSync(mount.hostPath);
  }
}

function checkReadonly(facts: VolumeFacts, mount: Mount): void {
  if (!mount.isRecursiveReadonly) return;
  if (!mount.isReadonly || mount.propagation !== 'private') {
    throw invalidArgument(`mount on ${mount.containerPath}: recursive read-only requires readonly and private propagation`);
  }
  if (!facts.canMountRecursivelyReadonly) {
    throw failedPrecondition(`RROUnsupported: mount on ${mount.containerPath}: this kernel does not support recursive read-only mounts`);
  }
}

function checkPropagation(table: readonly MountInfo[], mount: Mount, source: string): void {
  if (mount.propagation === 'private') return;
  const place = mountOf(table, source);
  const has = (kind: string) => place?.propagation.some((tag) => tag.startsWith(kind)) ?? false;
  if (mount.propagation === 'bidirectional' && !has('shared:')) {
    throw invalidArgument(`mount ${mount.hostPath} on ${mount.containerPath}: the host's mount ${place?.mountPoint} is not shared`);
  }
  if (mount.propagation === 'host-to-container' && !has('shared:') && !has('master:')) {
    throw invalidArgument(`mount ${mount.hostPath} on ${mount.containerPath}: the host's mount ${place?.mountPoint} is neither shared nor slave`);
  }
}

function propagationOf(facts: VolumeFacts, mount: Mount, source: string): NonNullable<RootMount['propagation']> {
  if (mount.propagation === 'bidirectional') return MS.SHARED;
  if (mount.propagation === 'host-to-container') return MS.SLAVE;
  // A private clone would keep other containers' mounts busy while it exists.
  const hasOwnMounts = facts.ownDirs.some((dir) => source === '/' || dir === source || dir.startsWith(`${source}/`));
  return hasOwnMounts ? MS.SLAVE : MS.PRIVATE;
}

function attributesOf(mount: Mount): number {
  const bits = { noexec: MOUNT_ATTR.NOEXEC, nodev: MOUNT_ATTR.NODEV, nosuid: MOUNT_ATTR.NOSUID };
  return mount.options.reduce((all, option) => all | bits[option], mount.isReadonly ? MOUNT_ATTR.RDONLY : 0);
}
