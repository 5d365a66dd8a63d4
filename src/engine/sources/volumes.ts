/**
 * Takes a container's volumes from the host: each source as a detached copy of its tree of mounts, checked against what was asked.
 */
import { openSync, readFileSync, realpathSync, statSync } from 'node:fs';
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
  /** Whether a missing source is made: for a new container. For one that starts it is gone, and was perhaps no directory. */
  readonly makesMissing: boolean;
  /** Directories with mounts of berth's own: who takes them along must let them go again. */
  readonly ownDirs: readonly string[];
  readonly shelf: Shelf;
  /** Where the pod's user namespace is pinned. */
  readonly userNamespace?: string;
};

/**
 * Opens the sources as registers.
 *
 * @throws {BerthError} INVALID_ARGUMENT or FAILED_PRECONDITION, naming the volume. What was opened until then is in `registers`.
 */
export function openVolumes(facts: VolumeFacts, mounts: readonly Mount[], registers: Registers): RootMount[] {
  const needsTable = mounts.some((mount) => mount.propagation !== 'private');
  const table = needsTable ? parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')) : [];
  return mounts.map((mount, i) => {
    try {
      return openVolume(facts, table, mount, `volume${i}`, registers);
    } catch (error) {
      if (error instanceof BerthError) throw error;
      throw unusable(`mounting ${mount.image?.requested ?? mount.hostPath} on ${mount.containerPath}`, error);
    }
  });
}

function openVolume(facts: VolumeFacts, table: readonly MountInfo[], mount: Mount, name: string, registers: Registers): RootMount {
  if (mount.image !== undefined) return openImage(facts, mount, mount.image, name, registers);
  const source = resolveSource(mount, facts.makesMissing && mount.mustExist !== true);
  const isDirectory = statSync(source).isDirectory();
  checkReadonly(facts, mount);
  checkPropagation(table, mount, source);
  const reg = registers.add(name, cloneSource(facts, mount, source));
  return {
    target: mount.containerPath,
    isDirectory,
    source: { kind: 'inherited', reg },
    attributes: attributesOf(mount),
    isRecursive: mount.isRecursiveReadonly,
    propagation: propagationOf(facts, mount, source),
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

/** With what is mounted below it, all of it mapped: a part that cannot be would belong to nobody in the container. */
function cloneSource(facts: VolumeFacts, mount: Mount, source: string): number {
  const isRecursive = mount.isShallow !== true;
  if (mount.ids === undefined) return cloneTree(source, { isRecursive });
  if (facts.userNamespace === undefined) throw invalidArgument(`mount on ${mount.containerPath}: ids are mapped only in a pod with a user namespace`);
  const userNamespace = openSync(facts.userNamespace, 'r');
  try {
    return cloneIdmapped(source, { userNamespace, isRecursive });
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw error;
    throw failedPrecondition(
      `mounting ${mount.hostPath} on ${mount.containerPath}: its file system, or one mounted in it, cannot map ids; use another, or hostUsers: true`,
      error,
    );
  } finally {
    close(userNamespace);
  }
}

/** Links are followed on the host, where whoever asked controls them. A missing source is made, as both peers do. */
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
    throw invalidArgument(`mount on ${mount.containerPath}: recursively read-only needs readonly and private propagation`);
  }
  if (!facts.canMountRecursivelyReadonly) {
    throw failedPrecondition(`RROUnsupported: mount on ${mount.containerPath}: this kernel cannot make a tree of mounts read-only`);
  }
}

function checkPropagation(table: readonly MountInfo[], mount: Mount, source: string): void {
  if (mount.propagation === 'private') return;
  const place = mountOf(table, source);
  const has = (kind: string) => place?.propagation.some((tag) => tag.startsWith(kind)) ?? false;
  if (mount.propagation === 'bidirectional' && !has('shared:')) {
    throw invalidArgument(`mounting ${mount.hostPath} on ${mount.containerPath}: the mount ${place?.mountPoint} it lies on is not shared`);
  }
  if (mount.propagation === 'host-to-container' && !has('shared:') && !has('master:')) {
    throw invalidArgument(
      `mounting ${mount.hostPath} on ${mount.containerPath}: the mount ${place?.mountPoint} it lies on is neither shared nor slave`,
    );
  }
}

function propagationOf(facts: VolumeFacts, mount: Mount, source: string): NonNullable<RootMount['propagation']> {
  if (mount.propagation === 'bidirectional') return MS.SHARED;
  if (mount.propagation === 'host-to-container') return MS.SLAVE;
  // As a private copy it would keep other containers' mounts busy for as long as it lives.
  const holdsOurs = facts.ownDirs.some((dir) => source === '/' || dir === source || dir.startsWith(`${source}/`));
  return holdsOurs ? MS.SLAVE : MS.PRIVATE;
}

function attributesOf(mount: Mount): number {
  const bits = { noexec: MOUNT_ATTR.NOEXEC, nodev: MOUNT_ATTR.NODEV, nosuid: MOUNT_ATTR.NOSUID };
  return mount.options.reduce((all, option) => all | bits[option], mount.isReadonly ? MOUNT_ATTR.RDONLY : 0);
}
