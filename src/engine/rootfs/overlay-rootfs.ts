/**
 * Root file systems by overlayfs: a writable directory above the image's layers, as a detached mount.
 *
 * A prepared rootfs is held as an fd until the container starts. Nothing is mounted in the host's mount tree, so a crash leaves no mounts behind.
 */
import { chownSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close } from '../../sys/call/syscalls.ts';
import { makePrivateDirectory } from '../../sys/filesystem/private-directory.ts';
import type { ProjectUse } from '../../sys/filesystem/quota.ts';
import { cloneIdmapped, cloneTree, unmount, whileAttached } from '../../sys/mount/mounts.ts';
import { createOverlay } from '../../sys/mount/overlay.ts';
import { boundByQuotas } from '../../sys/process/effective-capabilities.ts';
import type { IdMap } from '../state/spec.ts';
import { openPreparedRootfs } from './prepared-rootfs.ts';

/** The kernel's limit: OVL_MAX_STACK of fs/overlayfs. */
const layersMax = 500;

export type RootfsDriver = {
  /**
   * Creates the directories of a new container.
   *
   * @param options ids of a user namespace, whose root becomes the owner; the container's disk limit in bytes.
   * @throws {BerthError} FAILED_PRECONDITION for too many layers, or a limit that cannot be enforced.
   */
  readonly create: (id: string, layerDirs: readonly string[], options?: { readonly ids?: IdMap; readonly diskLimitBytes?: number }) => void;
  /**
   * Returns the mount of a container that has not started. The same fd until release(); the caller does not close it.
   *
   * @param userNamespace path of the pinned user namespace to which the layers' ids are mapped.
   */
  readonly open: (id: string, layerDirs: readonly string[], userNamespace?: string) => Promise<number>;
  /** Closes the fd: the container's mount namespace holds the mount now, or it is not needed. */
  readonly release: (id: string) => void;
  /** Removes the container's files. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
  /** Ids of containers that have directories. */
  readonly ids: () => string[];
  readonly shelf: Shelf;
  /** The container's writable directory, for disk usage. */
  readonly upperDir: (id: string) => string;
  /** Directory of the volumes that the image declares; missing if there are none. */
  readonly volumesDir: (id: string) => string;
  /** Disk usage according to the project quota; null without one. */
  readonly usage: (id: string) => ProjectUse | null;
};

/** Root file systems by overlayfs. Writable layers are mounted volatile, without syncs: they are removed after a crash of the kernel. */
export function createOverlayRootfs(rootDir: string): RootfsDriver {
  const prepared = openPreparedRootfs(rootDir);
  const { makeDirectory, hold, path } = prepared;
  const shelf = openShelf(rootDir);

  const mount = async (id: string, layerDirs: readonly string[], userNamespace?: string): Promise<number> => {
    // A volatile mount leaves a marker in its work directory, with which a second mount is refused.
    await rm(path(id, 'work'), { recursive: true, force: true });
    mkdirSync(path(id, 'work'));
    const layers = layerDirs.length > 0 ? layerDirs : [shelf.emptyLayer];
    const writable = { upper: path(id, 'upper'), work: path(id, 'work') };
    const stack = (shown: readonly (string | number)[]) => boundByQuotas(() => createOverlay({ layers: shown, writable }));
    const fd = withShownLayers(shelf, layers, userNamespace, stack);
    try {
      assertWritable(path(id, 'work'));
    } catch (error) {
      close(fd);
      throw error;
    }
    return fd;
  };
  return {
    ...prepared,
    create: (id, layerDirs, { ids, diskLimitBytes } = {}) => {
      if (layerDirs.length > layersMax) {
        throw failedPrecondition(`mount overlay of ${layerDirs.length} layers: the kernel supports at most ${layersMax}`);
      }
      makeDirectory(id, diskLimitBytes);
      mkdirSync(path(id, 'upper'), { mode: 0o755 });
      mkdirSync(path(id, 'work'));
      if (ids !== undefined) chownSync(path(id, 'upper'), ids.uids.hostId, ids.gids.hostId);
    },
    open: (id, layerDirs, userNamespace) => hold(id, () => mount(id, layerDirs, userNamespace)),
    shelf,
  };
}

/** Directories and facts that all containers of a root directory share. */
export type Shelf = {
  /** An empty directory, in place of missing layers. */
  readonly emptyLayer: string;
  /** Mount point for temporary mounts: whileAttached(). */
  readonly staging: string;
  /** Whether overlayfs accepts detached mounts as layers: Linux 6.15. */
  readonly takesDetached: boolean;
};

/** Creates the directories, and unmounts leftovers of a crash. */
export function openShelf(directory: string): Shelf {
  const shelf = makeShelf(directory);
  return { ...shelf, takesDetached: probeDetached(shelf.emptyLayer, shelf.staging) };
}

/** As openShelf(), for nodes without overlayfs. */
export function makeShelf(directory: string): Shelf {
  const [emptyLayer, staging] = [join(directory, 'empty-layer'), join(directory, 'staging')];
  mkdirSync(emptyLayer, { recursive: true, mode: 0o755 });
  makePrivateDirectory(staging);
  while (unmount(staging));
  return { emptyLayer, staging, takesDetached: false };
}

/** Probed without a writable directory, in which a failure would leave a marker. */
function probeDetached(emptyLayer: string, staging: string): boolean {
  const mounts = [emptyLayer, staging].map((directory) => cloneTree(directory, { isRecursive: false }));
  try {
    close(createOverlay({ layers: mounts, place: staging }));
    return true;
  } catch (error) {
    if (!isErrno(error, 'EINVAL')) throw error;
    return false;
  } finally {
    for (const mount of mounts) close(mount);
  }
}

/**
 * Calls `use` with the layers as paths, or, for a user namespace, as ID-mapped mounts: each pod has its own mounts of the same files.
 * If the kernel supports it, the mounts are detached and in no mount table.
 */
export function withShownLayers<T>(
  shelf: Shelf,
  layers: readonly string[],
  userNamespace: string | undefined,
  use: (shown: readonly (string | number)[]) => T,
): T {
  if (userNamespace === undefined) return use(layers);
  const fds: number[] = [];
  const keep = (fd: number): number => {
    fds.push(fd);
    return fd;
  };
  try {
    const namespace = keep(openSync(userNamespace, 'r'));
    const shown = layers.map((layer) => keep(cloneIdmapped(layer, { userNamespace: namespace, isRecursive: false })));
    return attachedWhereNeeded(shelf, shown, () => use(shown));
  } finally {
    for (const fd of fds) close(fd);
  }
}

/** Calls `use`; attaches the mounts meanwhile if the kernel requires it. */
export function attachedWhereNeeded<T>({ takesDetached, staging }: Shelf, mounts: readonly number[], use: () => T): T {
  return takesDetached ? use() : whileAttached(mounts, staging, use);
}

/** If overlayfs cannot create its directory in `work` (a full disk), it mounts read-only without an error. @throws the cause. */
function assertWritable(work: string): void {
  if (existsSync(join(work, 'work'))) return;
  mkdirSync(join(work, 'probe'));
  throw failedPrecondition(`mount overlay with work directory ${work}: the overlay is read-only`);
}
