/**
 * Inspects a container's rootfs before it runs: user and group files, and the kinds of masked paths.
 *
 * The image is untrusted: the kernel resolves paths inside the rootfs, special files are not read, and sizes are bounded.
 */
import { fstatSync, readSync, statSync } from 'node:fs';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_NONBLOCK, O_PATH, O_RDONLY, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../sys/call/syscalls.ts';
import type { MaskedPath } from '../plan/masked-paths.ts';

/** Maximum size of /etc/passwd and /etc/group. The largest in real images have tens of KiB. */
const fileBytesMax = 4 * 1024 * 1024;
const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
const absences = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EACCES'];

/** Returns the content of a regular file inside the rootfs; null if there is none, or it is larger than 4 MiB. */
export function readInRoot(root: number, path: string): Buffer | null {
  let fd: number;
  try {
    // Non-blocking: a FIFO in place of the file must not block the daemon.
    fd = openat2(root, path, { flags: O_RDONLY | O_NONBLOCK, resolve });
  } catch (error) {
    if (isErrno(error, ...absences)) return null;
    throw error;
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile() || stat.size > fileBytesMax) return null;
    const bytes = Buffer.alloc(stat.size);
    return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0));
  } finally {
    close(fd);
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
  try {
    const fd = openat2(root, path, { flags: O_PATH, resolve });
    try {
      return fstatSync(fd).isDirectory();
    } finally {
      close(fd);
    }
  } catch (error) {
    if (isErrno(error, ...absences)) return null;
    throw error;
  }
}
