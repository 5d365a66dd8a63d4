/**
 * Files that are replaced as a whole, and trees that are removed without leaving their file system.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isErrno } from './ffi.ts';

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
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
}
