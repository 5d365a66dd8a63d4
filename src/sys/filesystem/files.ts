/**
 * Files that are replaced as a whole, and trees that are removed without leaving their file system.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { readdir, rename, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../call/ffi.ts';

/**
 * Replaces a file: a reader, or the next start after a crash, sees the old bytes or the new, never a part.
 *
 * @param survivesPowerLoss waits for the disk; not for /run, which dies with the kernel.
 */
export function replaceFile(path: string, bytes: string | Uint8Array, options: { survivesPowerLoss: boolean; mode?: number }): void {
  const temporary = `${path}.new`;
  const fd = openSync(temporary, 'w', options.mode ?? 0o600);
  try {
    const data = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
    for (let offset = 0; offset < data.length; ) offset += writeSync(fd, data, offset);
    if (options.survivesPowerLoss) fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
  if (options.survivesPowerLoss) syncDirectory(dirname(path));
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Makes a directory with all above it. Where something is already it succeeds, whatever that is: the caller looks when it uses it.
 *
 * Node's own (`recursive: true`) never ends where a directory is there that nothing can be made in: mkdir(2) says ENOENT below /proc.
 */
export function makeDirectories(path: string, mode: number): void {
  const parts = path.split('/');
  for (let end = 1; end <= parts.length; end += 1) {
    const each = parts.slice(0, end).join('/');
    try {
      if (each !== '') mkdirSync(each, mode);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
  }
}

/** Removes a tree; succeeds when it is not there. The caller has unmounted what was mounted in it. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    if (!isErrno(error, 'ENAMETOOLONG')) throw error;
    await removeDeepTree(path);
  }
}

/**
 * Of a tree that goes deeper than a path may be long, as a container can make one: each directory comes up to the top before it is emptied, so that
 * no path is longer than two names, and no more than one directory is open.
 */
async function removeDeepTree(path: string): Promise<void> {
  const top = Buffer.from(`${path}/`);
  for (let entries = await entriesOf(top); entries.length > 0; entries = await entriesOf(top)) {
    for (const entry of entries) {
      const place = Buffer.concat([top, entry.name]);
      try {
        if (!entry.isDirectory()) await rm(place, { force: true });
        else await removeRaising(place, path);
      } catch (error) {
        // What failed before may still be removing other parts.
        if (!isErrno(error, 'ENOENT', 'ENOTEMPTY')) throw error;
      }
    }
  }
  await rmdir(path);
}

async function removeRaising(directory: Buffer, top: string): Promise<void> {
  for (const entry of await entriesOf(directory)) {
    const place = Buffer.concat([directory, Buffer.from('/'), entry.name]);
    if (entry.isDirectory()) await rename(place, join(top, randomUUID()));
    else await rm(place, { force: true });
  }
  await rmdir(directory);
}

function entriesOf(directory: Buffer) {
  return readdir(directory, { withFileTypes: true, encoding: 'buffer' });
}
