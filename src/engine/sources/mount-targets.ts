/**
 * Resolves a path in a container's rootfs through the links of the image. Real images have dangling ones, such as
 * `/etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf`: the mount point is created where the link points to.
 *
 * Not a security boundary: the kernel resolves the result inside the rootfs again.
 */
import { fstatSync, readlinkSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, O_NOFOLLOW, O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS } from '../../sys/call/syscalls.ts';
import { isCovered, normalPath } from '../plan/mounts.ts';

const resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
/** The kernel's limit: path_resolution(7). */
const linksMax = 40;

/**
 * Returns the place to which a path leads in the rootfs, through all links of the image, also dangling ones.
 *
 * @param path absolute.
 * @param mountPoints other mount points. The image's files below them are hidden, and ignored.
 */
export function placeInRoot(root: number, path: string, mountPoints: ReadonlySet<string>): string {
  const rest = partsOf(normalPath(path));
  let place = '';
  let links = 0;
  for (let part = rest.shift(); part !== undefined; part = rest.shift()) {
    if (part === '..') {
      place = place.slice(0, Math.max(place.lastIndexOf('/'), 0));
      continue;
    }
    const here = `${place}/${part}`;
    const isMountPoint = rest.length > 0 && mountPoints.has(here);
    const kind = isMountPoint ? 'nothing' : kindOf(root, here);
    // Loops are reported by the kernel.
    if (links >= linksMax) return normalPath(path);
    // Nothing below is visible yet.
    if (kind === 'nothing' && !rest.includes('..')) return normalPath([here, ...rest].join('/'));
    if (kind !== 'link') {
      place = here;
      if (kind === 'nothing') [place, links] = ['', links + 1];
      if (kind === 'nothing') rest.splice(0, rest.length, ...partsOf(normalPath([here, ...rest].join('/'))));
      continue;
    }
    links += 1;
    const target = readLink(root, place, part);
    rest.unshift(...partsOf(target));
    if (target.startsWith('/')) place = '';
  }
  return place || '/';
}

/**
 * Refuses an image in which these paths are not directories. Another container could redirect a link into a volume while this one starts, and
 * masked paths of /proc would be masked in the wrong place.
 *
 * @throws {BerthError} FAILED_PRECONDITION.
 */
export function requireDirectories(root: number, paths: readonly string[]): void {
  for (const path of paths) {
    const kind = kindOf(root, path);
    if (kind === 'link') throw failedPrecondition(`mount on ${path}: must be a directory in the image, but is a symbolic link`);
    if (kind === 'other') throw failedPrecondition(`mount on ${path}: must be a directory in the image, but is not a directory`);
  }
}

/** A path that is mounted on, or stays writable, in a container's rootfs. */
type Expected = { readonly target: string; readonly isDirectory: boolean };

/**
 * Refuses an image with a file in place of a directory, or a directory in place of a file. Missing paths are created. Paths below a mount point are
 * not part of the image.
 *
 * @throws {BerthError} FAILED_PRECONDITION.
 */
export function requireKinds(root: number, expected: readonly Expected[], mountPoints: ReadonlySet<string>): void {
  for (const { target: path, isDirectory } of expected) {
    if (isBelowAny(path, mountPoints)) continue;
    const mismatch = mismatchOf(root, path, isDirectory, mountPoints);
    if (mismatch !== null) throw failedPrecondition(`mount on ${path}: ${mismatch}`);
  }
}

/** A mount as far as it decides about mount points in it. */
export type Outer = Expected & {
  readonly isReadonly: boolean /** Opened source; undefined: berth's own, in which all mount points can be created. */;
  readonly fd?: number;
};

/**
 * Refuses a mount below a read-only one that has nothing there: the mount point cannot be created in it. Without this check the start would fail, and not
 * name the outer mount.
 *
 * @throws {BerthError} FAILED_PRECONDITION, naming both.
 */
export function requireMountPoints(mounts: readonly Outer[]): void {
  for (const { target } of mounts) {
    const outer = mounts
      .filter((mount) => mount.target !== target && isCovered(target, [mount.target]))
      .sort((a, b) => b.target.length - a.target.length)[0];
    if (outer === undefined || !outer.isReadonly || outer.fd === undefined) continue;
    if (kindOf(outer.fd, target.slice(outer.target.length)) === 'nothing')
      throw failedPrecondition(
        `mount on ${target}: the mount on ${outer.target} is read-only and has no ${target.slice(outer.target.length)}, so no mount point below ${outer.target} can be created; make the outer mount writable, or create the path in its source`,
      );
  }
}

function isBelowAny(path: string, mountPoints: ReadonlySet<string>): boolean {
  const parts = partsOf(path);
  return parts.some((_, i) => i > 0 && mountPoints.has(`/${parts.slice(0, i).join('/')}`));
}

/** Opens the path as the plan will: through links that stay in the rootfs. */
function mismatchOf(root: number, path: string, isDirectory: boolean, mountPoints: ReadonlySet<string>): string | null {
  try {
    const fd = openat2(root, path, { flags: O_PATH, resolve });
    try {
      if (fstatSync(fd).isDirectory() === isDirectory || isBelowAny(readlinkSync(`/proc/self/fd/${fd}`), mountPoints)) return null;
      return isDirectory ? 'must be a directory in the image, but is a file' : 'must be a file in the image, but is a directory';
    } finally {
      close(fd);
    }
  } catch (error) {
    if (isErrno(error, 'ENOTDIR') && !hasLinks(root, path)) return 'its parent is a file in the image';
    if (isErrno(error, 'ELOOP')) return 'too many levels of symbolic links in the image';
    // Usually ENOENT. The start reports other errors.
    return null;
  }
}

/** A path with links may lead below a mount point. */
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
    // The start fails on it, and names the step.
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
