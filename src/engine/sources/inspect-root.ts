/**
 * Looks into a container's root before it runs: user and group files, and what the paths to be masked are.
 *
 * The image is hostile: paths are resolved by the kernel inside the root, special files are not read, and sizes are bounded.
 */
import { fstatSync, readSync, statSync } from 'node:fs';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_NONBLOCK, O_PATH, O_RDONLY, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../sys/call/syscalls.ts';
import type { MaskedPath } from '../plan/mounts.ts';

/** What an /etc/passwd or /etc/group may measure; the largest of real images have some tens of KiB. */
const fileBytesMax = 4 * 1024 * 1024;
const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
const absences = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EACCES'];

/** The bytes of a regular file inside the root; null when there is none, or it is larger than 4 MiB. */
export function readInRoot(root: number, path: string): Buffer | null {
  let fd: number;
  try {
    // Non-blocking: a pipe in the place of the file must not hold the daemon.
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
 * The paths that are there, and whether each is a directory. What is below /proc and /sys is the kernel's and looked up on the host;
 * a path that only a volume will have is not seen.
 */
export function inspectMaskedPaths(root: number, paths: readonly string[]): MaskedPath[] {
  return paths.flatMap((path) => {
    const isDirectory = /^\/(proc|sys)\//.test(path) ? hostKind(path) : rootKind(root, path);
    return isDirectory === null ? [] : [{ path, isDirectory }];
  });
}

function hostKind(path: string): boolean | null {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? null;
}

function rootKind(root: number, path: string): boolean | null {
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
