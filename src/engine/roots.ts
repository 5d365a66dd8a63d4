/**
 * Containers' root file systems: a writable directory above the image's layers, as a detached overlay.
 *
 * A root that is prepared is held as an fd until the container starts. Nothing is mounted in the host's tree, so nothing stays behind a crash.
 */
import { mkdirSync, readdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition } from '../lib/errors.ts';
import { removeTree } from '../sys/files.ts';
import { createOverlay } from '../sys/overlay.ts';
import { close } from '../sys/syscalls.ts';

/** The kernel's limit: OVL_MAX_STACK of fs/overlayfs. */
const layersMax = 500;

export type Roots = {
  /** Makes the directories of a new container. @throws {BerthError} FAILED_PRECONDITION for too many layers. */
  readonly create: (id: string, layerDirs: readonly string[]) => void;
  /** The overlay of a container that has not started; the same fd until release(), and the caller does not close it. */
  readonly open: (id: string, layerDirs: readonly string[]) => Promise<number>;
  /** Lets the overlay's fd go: the container's own mount namespace holds it, or nobody needs it. */
  readonly release: (id: string) => void;
  /** Removes what the container wrote. Idempotent. */
  readonly remove: (id: string) => Promise<void>;
  /** Ids that have directories. */
  readonly ids: () => string[];
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

  const open = async (id: string, layerDirs: readonly string[]): Promise<number> => {
    const present = held.get(id);
    if (present !== undefined) return present;
    // A volatile overlay that was mounted once leaves a mark in its work directory, and is refused a second time.
    await rm(path(id, 'work'), { recursive: true, force: true });
    mkdirSync(path(id, 'work'));
    const layers = layerDirs.length > 0 ? layerDirs : [emptyLayer];
    const fd = createOverlay({ layers, upper: path(id, 'upper'), work: path(id, 'work'), isVolatile });
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
    create: (id, layerDirs) => {
      if (layerDirs.length > layersMax) {
        throw failedPrecondition(`stacking ${layerDirs.length} layers: the kernel takes ${layersMax} at most`);
      }
      mkdirSync(join(containers, id), { mode: 0o711 });
      mkdirSync(path(id, 'upper'), { mode: 0o755 });
      mkdirSync(path(id, 'work'));
    },
    open,
    release,
    remove: async (id) => {
      release(id);
      await removeTree(join(containers, id));
    },
    ids: () => readdirSync(containers),
    upperDir: (id) => path(id, 'upper'),
  };
}
