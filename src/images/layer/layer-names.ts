/**
 * Creates entries in a directory of a layer, and replaces existing ones of the same name: of two entries, the last one wins.
 *
 * Uses directory fds only, and knows nothing about the archive.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close as closeFd } from '../../sys/call/syscalls.ts';
import { makeDirectoryAt, makeLinkAt, openDirectoryAt } from '../../sys/filesystem/inodes.ts';
import { shownPath } from './layer-path.ts';

/** Creates an entry. @param removeExisting removes an existing entry of the same name. */
export function createReplacing<T>(create: () => T, removeExisting: () => void): T {
  try {
    return create();
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    removeExisting();
    return create();
  }
}

/** Ignores EEXIST. A hard link of a name to itself creates nothing, but the name must exist. */
export function ignoreExisting(link: () => void): void {
  try {
    link();
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}

/** Creates a directory, replacing an entry of another type. @returns false when the directory existed. */
export function ensureDirectory(dir: number, name: string, removeExisting: () => void): boolean {
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
  removeExisting();
  makeDirectoryAt(dir, name);
  return true;
}

/** Creates a hard link. @param shown the target in the archive, for messages. */
export function linkTo(targetDir: number, targetName: string, dir: number, name: string, shown: string): void {
  try {
    makeLinkAt(targetDir, targetName, dir, name);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) throw invalidArgument(`hard link to ${shownPath(shown)}, which is not in this layer`, error);
    if (isErrno(error, 'EPERM')) throw invalidArgument(`hard link to ${shownPath(shown)}, which is not a file`, error);
    throw error;
  }
}
