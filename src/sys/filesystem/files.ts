/**
 * Replaces files atomically, creates directories, and removes trees.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { readdir, rename, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isErrno } from '../call/ffi.ts';

/**
 * Replaces a file atomically: a reader, or the daemon after a crash, sees the old or the new bytes, never a part.
 *
 * @param survivesPowerLoss waits for the disk. Not needed for /run, which is lost with the kernel.
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
 * Creates a directory and its parents. Succeeds if the path exists, even if it is not a directory: the caller gets the error when it uses the path.
 *
 * Node's mkdir with `recursive: true` loops forever below a directory in which nothing can be created: mkdir(2) returns ENOENT below /proc.
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

/** Removes a tree. Succeeds if it does not exist. The caller must have unmounted everything in it. */
export async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true, maxRetries: 3 });
  } catch (error) {
    if (!isErrno(error, 'ENAMETOOLONG')) throw error;
    await removeDeepTree(path);
  }
}

/**
 * Removes a tree with paths longer than PATH_MAX, which a container can create. Each directory is moved to the top before it is emptied, so that no path
 * below the top has more than two components, and only one directory is open.
 */
async function removeDeepTree(path: string): Promise<void> {
  const top = Buffer.from(`${path}/`);
  for (let entries = await entriesOf(top); entries.length > 0; entries = await entriesOf(top)) {
    for (const entry of entries) {
      const child = Buffer.concat([top, entry.name]);
      try {
        if (!entry.isDirectory()) await rm(child, { force: true });
        else await removeFlattening(child, path);
      } catch (error) {
        // The failed rm() may still be removing other parts.
        if (!isErrno(error, 'ENOENT', 'ENOTEMPTY')) throw error;
      }
    }
  }
  await rmdir(path);
}

async function removeFlattening(directory: Buffer, top: string): Promise<void> {
  for (const entry of await entriesOf(directory)) {
    const child = Buffer.concat([directory, Buffer.from('/'), entry.name]);
    if (entry.isDirectory()) await rename(child, join(top, randomUUID()));
    else await rm(child, { force: true });
  }
  await rmdir(directory);
}

function entriesOf(directory: Buffer) {
  return readdir(directory, { withFileTypes: true, encoding: 'buffer' });
}
