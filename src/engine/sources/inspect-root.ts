/**
 * Inspects a container's rootfs before it runs: user and group files, and the kinds of masked paths.
 *
 * The image is untrusted: the kernel resolves paths inside the rootfs, special files are not read, and sizes are bounded.
 */
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../sys/call/syscalls.ts';
import type { MaskedPath } from '../plan/masked-paths.ts';

/** Maximum size of /etc/passwd and /etc/group, which the daemon's thread parses. The largest in real images have tens of KiB. */
const fileBytesMax = 1024 * 1024;
const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
const absences = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EACCES', 'ENAMETOOLONG'];

/**
 * Returns the content of a file inside the rootfs; null if there is none.
 *
 * @throws {BerthError} FAILED_PRECONDITION if it is not a regular file, or larger than 1 MiB: without it, the process would get another group.
 */
export function readInRoot(root: number, path: string): Buffer | null {
  const place = openInRoot(root, path);
  if (place === null) return null;
  try {
    const stat = fstatSync(place);
    if (!stat.isFile()) throw failedPrecondition(`read ${path} of the image: not a regular file`);
    if (stat.size > fileBytesMax) throw failedPrecondition(`read ${path} of the image: ${stat.size} bytes exceed the limit of ${fileBytesMax}`);
    // Opened only now: to open a FIFO can block, and a device can have side effects.
    const fd = openSync(`/proc/self/fd/${place}`, 'r');
    try {
      const bytes = Buffer.alloc(stat.size);
      return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0));
    } finally {
      closeSync(fd);
    }
  } finally {
    close(place);
  }
}

/** Opens a path without opening the file itself (O_PATH). @returns null if the path does not exist. */
function openInRoot(root: number, path: string): number | null {
  try {
    return openat2(root, path, { flags: O_PATH, resolve });
  } catch (error) {
    if (isErrno(error, ...absences)) return null;
    throw error;
  }
}

/**
 * Returns the paths that exist, and whether each is a directory. Paths below /proc and /sys belong to the kernel and are looked up on the host.
 * A path that exists only in a volume is not masked.
 */
export function inspectMaskedPaths(root: number, paths: readonly string[]): MaskedPath[] {
  return paths.flatMap((path) => {
    const isDirectory = /^\/(proc|sys)\//.test(path) ? isHostDirectory(path) : isRootDirectory(root, path);
    return isDirectory === null ? [] : [{ path, isDirectory }];
  });
}

/** @returns null if the path does not exist. */
function isHostDirectory(path: string): boolean | null {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? null;
}

/** @returns null if the path does not exist. */
function isRootDirectory(root: number, path: string): boolean | null {
  const fd = openInRoot(root, path);
  if (fd === null) return null;
  try {
    return fstatSync(fd).isDirectory();
  } finally {
    close(fd);
  }
}
