/**
 * Root file systems as copies of the image's layers, for nodes where overlayfs does not work. Slow and large, but they work on every file system.
 *
 * As with overlayfs, a rootfs is held as the fd of a detached mount until the container starts. Nothing is mounted in the host's mount tree.
 */
import { chownSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { type IdShift, layOver } from '../../sys/filesystem/copy-tree.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import { cloneTree, MS_PRIVATE, setMountAttributes } from '../../sys/mount/mounts.ts';
import type { IdMap } from '../state/spec.ts';
import { makeShelf, type RootfsDriver } from './overlay-rootfs.ts';
import { openPreparedRootfs } from './prepared-rootfs.ts';

/** The overflow id, which the kernel shows for owners that are not mapped in the pod's user namespace. */
const overflowId = 65_534;
/** File that marks a complete copy. */
const completeFile = 'whole';

/** Creates the driver. It does not support image volumes, which require overlayfs. */
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
    writeFileSync(path(id, completeFile), '');
  };

  const mount = async (id: string, layerDirs: readonly string[]): Promise<number> => {
    if (!existsSync(path(id, completeFile))) await copy(id, layerDirs);
    const fd = cloneTree(path(id, 'upper'), { isRecursive: false });
    // pivot_root(2) refuses a shared mount.
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
