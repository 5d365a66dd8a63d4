/**
 * Containers' root file systems as copies of the image's layers, for nodes where overlay does not work. Slow and large, but everywhere.
 *
 * As with overlays the root is held as the fd of a detached mount until the container starts, and nothing is mounted in the host's tree.
 */
import { chownSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { type IdShift, layOver } from '../../sys/filesystem/copy-tree.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import { cloneTree, MS_PRIVATE, setMountAttributes } from '../../sys/mount/mounts.ts';
import type { IdMap } from '../state/spec.ts';
import { makeShelf, type RootfsDriver } from './overlay-rootfs.ts';
import { openPreparedRootfs } from './prepared-rootfs.ts';

/** Owner of what has an id that the pod's user namespace does not have, as the kernel shows it. */
const overflowId = 65_534;
/** Beside the copy, when that is whole. */
const wholeFile = 'whole';

/** Image volumes are not had this way: they are stacked by overlay alone. */
export function createNativeRootfs(rootDir: string): RootfsDriver {
  const prepared = openPreparedRootfs(rootDir);
  const { makeDirectory, hold, path, keepIds, idsOf } = prepared;
  const shelf = makeShelf(rootDir);

  const copy = async (id: string, layerDirs: readonly string[]): Promise<void> => {
    await removeTree(path(id, 'upper'));
    mkdirSync(path(id, 'upper'), { mode: 0o755 });
    const ids = idsOf(id);
    if (ids !== undefined) chownSync(path(id, 'upper'), ids.uids.hostId, ids.gids.hostId);
    for (const layer of layerDirs.toReversed()) await layOver(layer, path(id, 'upper'), shiftOf(ids));
    writeFileSync(path(id, wholeFile), '');
  };

  const mount = async (id: string, layerDirs: readonly string[]): Promise<number> => {
    if (!existsSync(path(id, wholeFile))) await copy(id, layerDirs);
    const fd = cloneTree(path(id, 'upper'), { isRecursive: false });
    // pivot_root(2) refuses a root whose mount is shared.
    setMountAttributes(fd, { propagation: MS_PRIVATE, isRecursive: false });
    return fd;
  };
  return {
    ...prepared,
    create: (id, _layerDirs, { ids, diskLimitBytes } = {}) => {
      makeDirectory(id, diskLimitBytes);
      if (ids !== undefined) keepIds(id, ids);
    },
    open: (id, layerDirs) => hold(id, () => mount(id, layerDirs)),
    shelf,
  };
}

function shiftOf(ids: IdMap | undefined): IdShift {
  if (ids === undefined) return { uid: (id) => id, gid: (id) => id };
  const shifted = (range: IdMap['uids']) => (id: number) => (id < range.length ? range.hostId + id : overflowId);
  return { uid: shifted(ids.uids), gid: shifted(ids.gids) };
}
