/**
 * Measures the disk usage of a directory tree. Slow on purpose: one file at a time, so that other work does not wait for the disk or a thread.
 */
import { lstat, opendir } from 'node:fs/promises';
import { isErrno } from '../call/ffi.ts';

export type DiskUsage = { readonly bytes: number; readonly inodes: number };

/**
 * Returns the allocated bytes and the inodes of a tree, including the top directory. Hard links count once. Skips entries that disappear in the meantime,
 * and entries whose path is too long.
 *
 * @throws if the top directory does not exist or cannot be read.
 */
export async function measureTree(top: string): Promise<DiskUsage> {
  // Names are bytes: a container can use names that are not UTF-8.
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

/** Unit of st_blocks, stat(2). */
const blockBytes = 512;
const slash = Buffer.from('/');

/** Reads in chunks: a directory may have millions of entries. */
async function* namesIn(directory: Buffer): AsyncGenerator<Buffer> {
  // The types support only names as strings.
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
