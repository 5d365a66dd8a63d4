/**
 * The volumes that an image declares: each is a directory of the container's own, which begins as a copy of what the image has there.
 *
 * The directory is on the file system of the node: programs that declare a volume may need more than overlayfs offers. It is counted in the container's
 * disk usage and removed with it. As in containerd 2.4, internal/cri/opts/container.go, WithVolumes().
 */
import { chownSync, fstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_DIRECTORY, O_RDONLY, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../sys/call/syscalls.ts';
import { copyDirectory } from '../../sys/filesystem/copy-tree.ts';
import type { IdMap } from '../state/spec.ts';

/** More than any image needs: each costs a copy, and several registers of the plan. */
const volumesMax = 64;

/** Returns the directory of a declared volume. @param index in the list of the image's config. */
export const volumePath = (volumesDir: string, index: number): string => join(volumesDir, String(index));

/**
 * Creates the directories.
 *
 * @throws {BerthError} FAILED_PRECONDITION for too many volumes.
 * @param root fd of the container's rootfs, which no other process uses yet.
 * @param paths the declared paths; undefined: the container does not need this one.
 * @param ids of the pod's user namespace, whose root owns directories that the image does not have. The rootfs already shows the host's ids.
 */
export async function copyDeclaredVolumes(root: number, volumesDir: string, paths: readonly (string | undefined)[], ids?: IdMap): Promise<void> {
  const count = paths.filter((path) => path !== undefined).length;
  if (count === 0) return;
  if (count > volumesMax) throw failedPrecondition(`the image declares ${count} volumes, more than the limit of ${volumesMax}`);
  mkdirSync(volumesDir, { mode: 0o711 });
  for (const [i, path] of paths.entries()) {
    if (path !== undefined) await copyVolume(root, path, volumePath(volumesDir, i), ids);
  }
}

async function copyVolume(root: number, path: string, target: string, ids: IdMap | undefined): Promise<void> {
  const source = openSource(root, path);
  if (source === null) {
    mkdirSync(target, { mode: 0o755 });
    if (ids !== undefined) chownSync(target, ids.uids.hostId, ids.gids.hostId);
    return;
  }
  try {
    // A volume is never the root itself, which a link can lead to.
    if (fstatSync(source).ino !== fstatSync(root).ino) await copyDirectory(`/proc/self/fd/${source}/.`, target);
  } finally {
    close(source);
  }
}

/** @returns null if the image has no directory there. The composition of the plan refuses a file. */
function openSource(root: number, path: string): number | null {
  try {
    // The kernel resolves links of the image inside the rootfs.
    return openat2(root, path, { flags: O_RDONLY | O_DIRECTORY, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS });
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return null;
    throw error;
  }
}
