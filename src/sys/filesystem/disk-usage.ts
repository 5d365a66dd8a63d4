/**
 * How much of a disk a directory tree takes. Slow by intention: one file at a time, so that nobody else waits for the disk or for a thread.
 */
import { lstat, opendir } from 'node:fs/promises';
import { isErrno } from '../call/ffi.ts';

export type DiskUsage = { readonly bytes: number; readonly inodes: number };

/**
 * Allocated bytes and inodes of a tree, the top directory included, hard links counted once. What vanishes meanwhile is left out, and so is
 * what lies deeper than a path can say.
 *
 * @throws when the top is gone or cannot be read.
 */
export async function measureTree(top: string): Promise<DiskUsage> {
  // Names are bytes: a container may write any.
  const pending = [Buffer.from(top)];
  const linked = new Set<string>();
  let { bytes, inodes } = { bytes: (await lstat(top)).blocks * blockBytes, inodes: 1 };
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    for await (const name of namesIn(directory)) {
      const path = Buffer.concat([directory, slash, name]);
      const stat = await ifThere(lstat(path));
      if (stat === null) continue;
      if (stat.isDirectory()) pending.push(path);
      else if (stat.nlink > 1) {
        const inode = `${stat.dev}:${stat.ino}`;
        if (linked.has(inode)) continue;
        linked.add(inode);
      }
      bytes += stat.blocks * blockBytes;
      inodes += 1;
    }
  }
  return { bytes, inodes };
}

/** Of st_blocks, stat(2). */
const blockBytes = 512;
const slash = Buffer.from('/');

/** In portions: a directory may hold millions. */
async function* namesIn(directory: Buffer): AsyncGenerator<Buffer> {
  // The types know names as texts only.
  const handle = await ifThere(opendir(directory as unknown as string, { encoding: 'buffer' as unknown as 'utf8' }));
  if (handle === null) return;
  for await (const { name } of handle) yield name as unknown as Buffer;
}

async function ifThere<Result>(work: Promise<Result>): Promise<Result | null> {
  try {
    return await work;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG')) return null;
    throw error;
  }
}
