/**
 * Finds where in a container's root a path leads when links on its way point at what is not there: images have such ones,
 * `/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf` above all, and what is mounted there is to be made where they point.
 *
 * Decides nothing about safety: whatever it gives is resolved inside the root again by the kernel.
 */
import { fstatSync, readlinkSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_NOFOLLOW, O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS } from '../../sys/call/syscalls.ts';
import { normalPath } from '../plan/mounts.ts';

const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
/** As the kernel: path_resolution(7). */
const linksMax = 40;

/**
 * The path itself, unless a link on its way leads to nothing: then the path that the link stands for.
 *
 * @param path absolute.
 * @param mountPoints where something else will be by then: what the image has below is not looked at.
 */
export function placeInRoot(root: number, path: string, mountPoints: ReadonlySet<string>): string {
  const rest = partsOf(path);
  let place = '';
  let links = 0;
  for (let part = rest.shift(); part !== undefined; part = rest.shift()) {
    if (part === '..') place = place.slice(0, Math.max(place.lastIndexOf('/'), 0));
    if (part === '..') continue;
    const here = `${place}/${part}`;
    const kind = rest.length > 0 && mountPoints.has(here) ? 'mount point' : kindOf(root, here);
    if (kind === 'nothing') return links === 0 ? path : normalPath([here, ...rest].join('/'));
    // What is below a mount point is not to be seen yet, and of loops the kernel tells.
    if ((kind === 'mount point' && links === 0) || links >= linksMax) return path;
    if (kind === 'mount point') return normalPath([here, ...rest].join('/'));
    if (kind !== 'link') {
      place = here;
      continue;
    }
    links += 1;
    const target = readLink(root, place, part);
    rest.unshift(...partsOf(target));
    if (target.startsWith('/')) place = '';
  }
  return path;
}

/**
 * Refuses an image in which these are anything but directories. A link that leads into a volume could be turned elsewhere by another container
 * while this one starts, and what is hidden in /proc would be hidden in a place that nobody looks at.
 *
 * @throws {BerthError} FAILED_PRECONDITION.
 */
export function requireDirectories(root: number, paths: readonly string[]): void {
  for (const path of paths) {
    const kind = kindOf(root, path);
    if (kind === 'link') throw failedPrecondition(`mounting ${path}: it is a symbolic link in the image, and must be a directory`);
    if (kind === 'other') throw failedPrecondition(`mounting ${path}: it is a file in the image, and must be a directory`);
  }
}

/** What is to be mounted, or to stay writable, in a container's root. */
type Wanted = { readonly target: string; readonly isDirectory: boolean };

/**
 * Refuses an image that has a file where a directory is wanted, or a directory where a file is. What is not there will be made; what lies below a mount
 * point is not the image's.
 *
 * @throws {BerthError} FAILED_PRECONDITION.
 */
export function requireKinds(root: number, wanted: readonly Wanted[], mountPoints: ReadonlySet<string>): void {
  for (const { target: path, isDirectory } of wanted) {
    if (isBelowAny(path, mountPoints)) continue;
    const fault = faultOf(root, path, isDirectory, mountPoints);
    if (fault !== null) throw failedPrecondition(`mounting on ${path}: ${fault}`);
  }
}

function isBelowAny(path: string, mountPoints: ReadonlySet<string>): boolean {
  const parts = partsOf(path);
  return parts.some((_, i) => i > 0 && mountPoints.has(`/${parts.slice(0, i).join('/')}`));
}

/** As the start will open it: through links that stay in the root. */
function faultOf(root: number, path: string, isDirectory: boolean, mountPoints: ReadonlySet<string>): string | null {
  try {
    const fd = openat2(root, path, { flags: O_PATH, resolve });
    try {
      if (fstatSync(fd).isDirectory() === isDirectory || isBelowAny(readlinkSync(`/proc/self/fd/${fd}`), mountPoints)) return null;
      return isDirectory ? 'it is a file in the image, and must be a directory' : 'it is a directory in the image, and must be a file';
    } finally {
      close(fd);
    }
  } catch (error) {
    if (isErrno(error, 'ENOTDIR') && !hasLinks(root, path)) return 'what it lies in is a file in the image';
    if (isErrno(error, 'ELOOP')) return 'its links in the image lead in a circle';
    // ENOENT above all. Of anything else the start will tell.
    return null;
  }
}

/** A way through links may lead below a mount point. */
function hasLinks(root: number, path: string): boolean {
  try {
    close(openat2(root, path, { flags: O_PATH, resolve: resolve | RESOLVE_NO_SYMLINKS }));
    return false;
  } catch (error) {
    return isErrno(error, 'ELOOP');
  }
}

type Kind = 'nothing' | 'link' | 'directory' | 'other';

function kindOf(root: number, path: string): Kind {
  try {
    const fd = openat2(root, path, { flags: O_PATH | O_NOFOLLOW, resolve });
    try {
      const stat = fstatSync(fd);
      if (stat.isSymbolicLink()) return 'link';
      return stat.isDirectory() ? 'directory' : 'other';
    } finally {
      close(fd);
    }
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 'nothing';
    // The start will meet it, and name the step.
    if (isErrno(error, 'ENOTDIR', 'ELOOP', 'EACCES', 'ENAMETOOLONG')) return 'other';
    throw error;
  }
}

function readLink(root: number, directory: string, name: string): string {
  const fd = openat2(root, directory || '/', { flags: O_PATH, resolve });
  try {
    return readlinkSync(`/proc/self/fd/${fd}/${name}`);
  } finally {
    close(fd);
  }
}

const partsOf = (path: string): string[] => path.split('/').filter((part) => part !== '' && part !== '.');
