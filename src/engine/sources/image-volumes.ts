/**
 * Opens an image volume: a detached read-only mount of an image's layers, or of a directory in it.
 *
 * The image is untrusted: the kernel resolves the directory inside the image, so no link in it leads out.
 */
import { posix } from 'node:path';
import { BerthError, reasonOf } from '../../lib/errors.ts';
import { close, O_DIRECTORY, O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../sys/call/syscalls.ts';
import { cloneOpen, cloneTree } from '../../sys/mount/mounts.ts';
import { createOverlay } from '../../sys/mount/overlay.ts';
import { attachedWhereNeeded, type Shelf, withShownLayers } from '../rootfs/overlay-rootfs.ts';
import type { ImageVolume } from '../state/spec.ts';

export type ImageVolumeFacts = {
  readonly shelf: Shelf;
  /** Path of the pinned user namespace to which the files' ids are mapped. */
  readonly userNamespace?: string;
};

/**
 * Opens an image volume.
 *
 * @returns the fd of the mount.
 * @throws {BerthError} FAILED_PRECONDITION `ImageVolumeMountFailed: …`, a reason that the kubelet parses.
 */
export function openImageVolume(facts: ImageVolumeFacts, image: ImageVolume): number {
  try {
    const mount = mountLayers(facts, image.found?.layerDirs ?? []);
    if (image.subPath === '') return mount;
    try {
      return attachedWhereNeeded(facts.shelf, [mount], () => openSubPath(mount, image.subPath));
    } finally {
      close(mount);
    }
  } catch (error) {
    throw new BerthError('FAILED_PRECONDITION', `ImageVolumeMountFailed: image ${image.requested}: ${reasonOf(error)}`, error);
  }
}

/** A read-only overlay needs at least two layers. */
function mountLayers({ shelf, userNamespace }: ImageVolumeFacts, layerDirs: readonly string[]): number {
  if (layerDirs.length === 0) return cloneTree(shelf.emptyLayer, { isRecursive: false });
  const layers = layerDirs.length === 1 ? [...layerDirs, shelf.emptyLayer] : layerDirs;
  return withShownLayers(shelf, layers, userNamespace, (shown) => createOverlay({ layers: shown, place: shelf.staging }));
}

function openSubPath(mount: number, path: string): number {
  const inside = posix.normalize(path.replace(/^\/+/, ''));
  if (inside.split('/')[0] === '..') throw new Error(`sub path ${JSON.stringify(path)} leaves the image`);
  const directory = openat2(mount, inside, { flags: O_PATH | O_DIRECTORY, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS });
  try {
    return cloneOpen(directory);
  } finally {
    close(directory);
  }
}
