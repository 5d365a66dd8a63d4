/**
 * Root file systems by fuse-overlayfs, if configured: one process for each rootfs, which serves its files.
 *
 * As with overlayfs, a rootfs is held as the fd of a detached mount until the container starts. The process is not a child of the daemon and
 * survives it. It ends with the container's mount namespace, or when the fd of a rootfs that was never started is closed.
 */
import { mkdirSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { removeTree } from '../../sys/filesystem/files.ts';
import { createFuseOverlay, requireFuseOverlay } from '../../sys/mount/fuse-overlay.ts';
import { unmount } from '../../sys/mount/mounts.ts';
import { makeShelf, openShelf, type RootfsDriver } from './overlay-rootfs.ts';
import { openPreparedRootfs } from './prepared-rootfs.ts';

/**
 * Creates the driver.
 *
 * @param hasOverlay whether overlayfs works here, which image volumes require.
 * @throws {BerthError} FAILED_PRECONDITION if fuse-overlayfs does not work on this node.
 */
export async function createFuseRootfs(rootDir: string, hasOverlay: boolean): Promise<RootfsDriver> {
  await requireFuseOverlay();
  const prepared = openPreparedRootfs(rootDir);
  const { makeDirectory, hold, path, keepIds, idsOf } = prepared;
  const shelf = hasOverlay ? openShelf(rootDir) : makeShelf(rootDir);
  const mount = async (id: string, layerDirs: readonly string[]): Promise<number> => {
    // A crash may have interrupted an earlier attempt.
    while (unmount(path(id, 'place')));
    await removeTree(path(id, 'work'));
    mkdirSync(path(id, 'work'));
    const ids = idsOf(id);
    return createFuseOverlay({
      layers: layerDirs.length > 0 ? layerDirs : [shelf.emptyLayer],
      upper: path(id, 'upper'),
      work: path(id, 'work'),
      place: path(id, 'place'),
      ...(ids ? { ids } : {}),
    });
  };
  return {
    ...prepared,
    create: (id, _layerDirs, { ids, diskLimitBytes } = {}) => {
      // Its process runs as root, to which ext4 does not apply quotas.
      if (diskLimitBytes !== undefined) throw failedPrecondition('disk limit: not supported by the snapshotter fuse-overlayfs');
      makeDirectory(id, diskLimitBytes);
      for (const name of ['upper', 'place']) mkdirSync(path(id, name), { mode: 0o755 });
      if (ids !== undefined) keepIds(id, ids);
    },
    open: (id, layerDirs) => hold(id, () => mount(id, layerDirs)),
    remove: async (id) => {
      while (unmount(path(id, 'place')));
      await prepared.remove(id);
    },
    shelf,
  };
}
