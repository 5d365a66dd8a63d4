/**
 * Containers' root file systems as copies of the image's layers, for nodes where overlay does not work. Slow and large, but everywhere.
 *
 * As with overlays the root is held as the fd of a detached mount until the container starts, and nothing is mounted in the host's tree.
 */
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type IdShift, layOver } from '../sys/copy-tree.ts';
import { removeTree } from '../sys/files.ts';
import { cloneTree, MS_PRIVATE, setMountAttributes } from '../sys/mounts.ts';
import { close } from '../sys/syscalls.ts';
import { makeShelf, type Roots } from './roots.ts';
import type { IdMap } from './spec.ts';

/** Owner of what has an id that the pod's user namespace does not have, as the kernel shows it. */
const overflowId = 65_534;
/** Beside the copy: ids of the pod's user namespace, and whether the copy is whole. */
const idsFile = 'ids.json';
const wholeFile = 'whole';

/** Image volumes are not had this way: they are stacked by overlay alone. */
export function createNativeRoots(rootDir: string): Roots {
  const containers = join(rootDir, 'containers');
  const shelf = makeShelf(rootDir);
  mkdirSync(containers, { recursive: true, mode: 0o711 });
  const held = new Map<string, number>();
  const path = (id: string, name: string) => join(containers, id, name);

  const copy = async (id: string, layerDirs: readonly string[]): Promise<void> => {
    await removeTree(path(id, 'upper'));
    mkdirSync(path(id, 'upper'), { mode: 0o755 });
    const ids = existsSync(path(id, idsFile)) ? (JSON.parse(readFileSync(path(id, idsFile), 'utf8')) as IdMap) : undefined;
    if (ids !== undefined) chownSync(path(id, 'upper'), ids.uids.hostId, ids.gids.hostId);
    for (const layer of layerDirs.toReversed()) await layOver(layer, path(id, 'upper'), shiftOf(ids));
    writeFileSync(path(id, wholeFile), '');
  };

  const release = (id: string) => {
    const fd = held.get(id);
    if (fd === undefined) return;
    held.delete(id);
    close(fd);
  };
  return {
    create: (id, _layerDirs, ids) => {
      mkdirSync(join(containers, id), { mode: 0o711 });
      if (ids !== undefined) writeFileSync(path(id, idsFile), JSON.stringify(ids));
    },
    open: async (id, layerDirs) => {
      const present = held.get(id);
      if (present !== undefined) return present;
      if (!existsSync(path(id, wholeFile))) await copy(id, layerDirs);
      const fd = cloneTree(path(id, 'upper'), { isRecursive: false });
      // pivot_root(2) refuses a root whose mount is shared.
      setMountAttributes(fd, { propagation: MS_PRIVATE, isRecursive: false });
      held.set(id, fd);
      return fd;
    },
    release,
    remove: async (id) => {
      release(id);
      await removeTree(join(containers, id));
    },
    ids: () => readdirSync(containers),
    shelf,
    upperDir: (id) => path(id, 'upper'),
  };
}

function shiftOf(ids: IdMap | undefined): IdShift {
  if (ids === undefined) return { uid: (id) => id, gid: (id) => id };
  const shifted = (range: IdMap['uids']) => (id: number) => (id < range.length ? range.hostId + id : overflowId);
  return { uid: shifted(ids.uids), gid: shifted(ids.gids) };
}
