/**
 * Containers' root file systems: a writable directory above the image's layers, as a detached overlay.
 *
 * A root that is prepared is held as an fd until the container starts. Nothing is mounted in the host's tree, so nothing stays behind a crash.
 */
import { chownSync, mkdirSync, openSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition } from '../lib/errors.ts';
import { removeTree } from '../sys/files.ts';
import { cloneIdmapped } from '../sys/mounts.ts';
import { createOverlay } from '../sys/overlay.ts';
import { close } from '../sys/syscalls.ts';
import type { IdMap } from './spec.ts';

/** The kernel's limit: OVL_MAX_STACK of fs/overlayfs. */
const layersMax = 500;

export type Roots = {
  /**
   * Makes the directories of a new container.
   *
   * @param ids of a user namespace, whose root gets them.
   * @throws {BerthError} FAILED_PRECONDITION for too many layers.
   */
  readonly create: (id: string, layerDirs: readonly string[], ids?: IdMap) => void;
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
  /** A directory with nothing in it, to stand for layers that are missing. */
  readonly emptyLayer: string;
  /** Where a container's writes go, for the accounting of disk use. */
  readonly upperDir: (id: string) => string;
};

/** @param isVolatile leaves out syncs on the writable layers: they do not outlive a crash of the kernel anyway. */
export function createRoots(rootDir: string, isVolatile: boolean): Roots {
  const containers = join(rootDir, 'containers');
  const emptyLayer = join(rootDir, 'empty-layer');
  mkdirSync(containers, { recursive: true, mode: 0o711 });
  mkdirSync(emptyLayer, { recursive: true, mode: 0o755 });
  const held = new Map<string, number>();
  const path = (id: string, name: string) => join(containers, id, name);

  const open = async (id: string, layerDirs: readonly string[], userNamespace?: string): Promise<number> => {
    const present = held.get(id);
    if (present !== undefined) return present;
    // A volatile overlay that was mounted once leaves a mark in its work directory, and is refused a second time.
    await rm(path(id, 'work'), { recursive: true, force: true });
    mkdirSync(path(id, 'work'));
    const layers = layerDirs.length > 0 ? layerDirs : [emptyLayer];
    const writable = { upper: path(id, 'upper'), work: path(id, 'work'), isVolatile };
    const fd = withShownLayers(layers, userNamespace, (shown) => createOverlay({ layers: shown, writable }));
    held.set(id, fd);
    return fd;
  };
  const release = (id: string) => {
    const fd = held.get(id);
    if (fd === undefined) return;
    held.delete(id);
    close(fd);
  };
  return {
    create: (id, layerDirs, ids) => {
      if (layerDirs.length > layersMax) {
        throw failedPrecondition(`stacking ${layerDirs.length} layers: the kernel takes ${layersMax} at most`);
      }
      mkdirSync(join(containers, id), { mode: 0o711 });
      mkdirSync(path(id, 'upper'), { mode: 0o755 });
      mkdirSync(path(id, 'work'));
      if (ids !== undefined) chownSync(path(id, 'upper'), ids.uids.hostId, ids.gids.hostId);
    },
    open,
    release,
    remove: async (id) => {
      release(id);
      await removeTree(join(containers, id));
    },
    ids: () => readdirSync(containers),
    emptyLayer,
    upperDir: (id) => path(id, 'upper'),
  };
}

/**
 * Gives layers as paths, or, for a user namespace, as mounts of their own that show the ids it maps: each pod has its own, all have the same files.
 * Detached: they are in nobody's table of mounts.
 */
export function withShownLayers<T>(layers: readonly string[], userNamespace: string | undefined, use: (shown: readonly (string | number)[]) => T): T {
  if (userNamespace === undefined) return use(layers);
  const fds: number[] = [];
  const keep = (fd: number): number => {
    fds.push(fd);
    return fd;
  };
  try {
    const namespace = keep(openSync(userNamespace, 'r'));
    return use(layers.map((layer) => keep(cloneIdmapped(layer, { userNamespace: namespace, isRecursive: false }))));
  } finally {
    for (const fd of fds) close(fd);
  }
}
