/**
 * Names made in a directory of a layer, whatever had them before: of two entries the last one wins.
 *
 * Knows directories by their fds alone, and nothing of the archive.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close as closeFd } from '../../sys/call/syscalls.ts';
import { makeDirectoryAt, makeLinkAt, openDirectoryAt } from '../../sys/filesystem/inodes.ts';
import { shownPath } from './layer-path.ts';

/** Makes what has this name. @param takeAway what had it before: of two entries the last one wins. */
export function anew<T>(make: () => T, takeAway: () => void): T {
  try {
    return make();
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    takeAway();
    return make();
  }
}

/** Of a name linked to itself nothing is to be made, but there must be one. */
export function unlessThere(link: () => void): void {
  try {
    link();
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

/** @returns false when it was there already. */
export function makeUnlessDirectory(dir: number, name: string, takeAway: () => void): boolean {
  try {
    makeDirectoryAt(dir, name);
    return true;
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
  const fd = openDirectoryAt(dir, name);
  if (fd !== undefined) {
    closeFd(fd);
    return false;
  }
  takeAway();
  makeDirectoryAt(dir, name);
  return true;
}

export function linkTo(targetDir: number, targetName: string, dir: number, name: string, shown: string): void {
  try {
    makeLinkAt(targetDir, targetName, dir, name);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) throw invalidArgument(`hard link to ${shownPath(shown)}, which is not in this layer`, error);
    if (isErrno(error, 'EPERM')) throw invalidArgument(`hard link to ${shownPath(shown)}, which is no file`, error);
    throw error;
  }
}
