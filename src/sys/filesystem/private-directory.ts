/**
 * Directories that belong to the daemon, whatever modes they had before: earlier versions, or an administrator's mkdir, may have let every user in.
 */
import { closeSync, constants, fchmodSync, fstatSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { makeDirectories } from './files.ts';

/** 0711: other users may pass, to a path that they know, but not list. */
export type PrivateMode = 0o700 | 0o711;

/**
 * Creates a directory, or takes away the permissions that it has beyond the mode.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the path is not a directory, or belongs to another user, who could replace everything in it.
 */
export function makePrivateDirectory(path: string, mode: PrivateMode = 0o700): void {
  const fd = openOwn(path, mode);
  try {
    const before = fstatSync(fd).mode & 0o777;
    if ((before & ~mode) !== 0) fchmodSync(fd, before & mode);
  } finally {
    closeSync(fd);
  }
}

/**
 * Creates a directory that an administrator has chosen, or checks it. The mode of an existing directory is not changed: it may contain more than the
 * daemon's files.
 *
 * @throws {BerthError} as makePrivateDirectory(), and if other users can write to it.
 */
export function makeOwnDirectory(path: string, mode: PrivateMode): void {
  const fd = openOwn(path, mode);
  try {
    const found = fstatSync(fd).mode & 0o7777;
    if ((found & 0o002) !== 0) throw failedPrecondition(`use ${path}: every user can write to it (mode ${found.toString(8)}); run chmod o-w ${path}`);
  } finally {
    closeSync(fd);
  }
}

function openOwn(path: string, mode: PrivateMode): number {
  makeDirectories(dirname(path), 0o755);
  makeDirectories(path, mode);
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    if (!isErrno(error, 'ENOTDIR')) throw error;
    throw failedPrecondition(`use ${path}: it is not a directory`, error);
  }
  const owner = fstatSync(fd).uid;
  if (owner === process.geteuid?.()) return fd;
  closeSync(fd);
  throw failedPrecondition(`use ${path}: it belongs to user ${owner}, who could replace its files; run chown root ${path}`);
}
