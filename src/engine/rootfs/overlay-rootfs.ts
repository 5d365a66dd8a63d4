/**
 * Containers' root file systems: a writable directory above the image's layers, as a detached overlay.
 *
 * A root that is prepared is held as an fd until the container starts. Nothing is mounted in the host's tree, so nothing stays behind a crash.
 */
import { chownSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close } from '../../sys/call/syscalls.ts';
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
   * Makes the directories of a new container.
   *
   * @param options ids of a user namespace, whose root gets them; bytes that the container may take on disk.
   * @throws {BerthError} FAILED_PRECONDITION for too many layers, and for a limit that would not hold.
   */
  readonly create: (id: string, layerDirs: readonly string[], options?: { readonly ids?: IdMap; readonly diskLimitBytes?: number }) => void;
  /**
   * The overlay of a container that has not started; the same fd until release(), and the caller does not close it.
   *
   * @param userNamespace where the one is pinned that the layers' ids are shown in.
   */
  readonly open: (id: string, layerDirs: readonly string[], userNamespace?: string) => Promise<number>;
  /** Lets the overlay's fd go: the container's own mount namespace holds it, or nobody needs it. */
  readonly release: (id: string) => void;
  /** Removes what the container wrote. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
  /** Ids that have directories. */
  readonly ids: () => string[];
  readonly shelf: Shelf;
  /** Where a container's writes go, for the accounting of disk use. */
  readonly upperDir: (id: string) => string;
  /** What its directory takes, as a project quota counts it; null where there is none. */
  readonly usage: (id: string) => ProjectUse | null;
};

/** Root file systems by overlayfs. Writable layers are mounted volatile, without syncs: they are removed after a crash of the kernel. */
export function createOverlayRootfs(rootDir: string): RootfsDriver {
  const prepared = openPreparedRootfs(rootDir);
  const { makeDirectory, hold, path } = prepared;
  const shelf = openShelf(rootDir);

  const mount = async (id: string, layerDirs: readonly string[], userNamespace?: string): Promise<number> => {
    // A volatile overlay that was mounted once leaves a mark in its work directory, and is refused a second time.
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
        throw failedPrecondition(`stacking ${layerDirs.length} layers: the kernel takes ${layersMax} at most`);
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

/** What all containers share of a root directory. */
export type Shelf = {
  /** Nothing is in it: for layers that are missing. */
  readonly emptyLayer: string;
  /** Where mounts lie for a moment: whileAttached(). */
  readonly staging: string;
  /** Whether this kernel stacks, and takes parts of, mounts that are attached nowhere: Linux 6.15. */
  readonly takesDetached: boolean;
};

/** Makes the directories, and lets go of what a crash has left in them. */
export function openShelf(directory: string): Shelf {
  const shelf = makeShelf(directory);
  return { ...shelf, takesDetached: probeDetached(shelf.emptyLayer, shelf.staging) };
}

/** As openShelf(), for nodes without overlay. */
export function makeShelf(directory: string): Shelf {
  const [emptyLayer, staging] = [join(directory, 'empty-layer'), join(directory, 'staging')];
  mkdirSync(emptyLayer, { recursive: true, mode: 0o755 });
  mkdirSync(staging, { recursive: true, mode: 0o700 });
  while (unmount(staging));
  return { emptyLayer, staging, takesDetached: false };
}

/** Tried without a writable directory, for a failure leaves a mark in that. */
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
 * Gives layers as paths, or, for a user namespace, as mounts of their own that show the ids it maps: each pod has its own, all have the same files.
 * Where the kernel lets them, they are in nobody's table of mounts.
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

/** Calls `use`, with the mounts attached meanwhile if the kernel wants that. */
export function attachedWhereNeeded<T>({ takesDetached, staging }: Shelf, mounts: readonly number[], use: () => T): T {
  return takesDetached ? use() : whileAttached(mounts, staging, use);
}

/** Where overlayfs cannot make its directory in `work` (a full disk), it mounts read-only and tells nobody. @throws why it could not. */
function assertWritable(work: string): void {
  if (existsSync(join(work, 'work'))) return;
  mkdirSync(join(work, 'probe'));
  throw failedPrecondition(`mounting an overlay on ${work}: it is read-only`);
}
