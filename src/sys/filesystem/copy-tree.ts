/**
 * Applies a layer to a directory tree by copying, with the same result as overlayfs, for file systems without overlayfs.
 *
 * Files share blocks if the file system supports it (FICLONE). Names are byte strings (one character per byte). No other process may use the tree
 * meanwhile.
 */

import { constants, lstatSync } from 'node:fs';
import { copyFile, link, lstat, mkdir, readdir, readlink, rm, symlink } from 'node:fs/promises';
import { AT_FDCWD } from '../call/syscalls.ts';
import { deviceNumbers } from './block-devices.ts';
import { makeNodeAt, setLinkOwner, setLinkTimes, setNodeOwnerAndMode } from './inodes.ts';
import { isOpaque, readXattrs, setXattr } from './xattrs.ts';

/** Maps owners to those of the copy. */
export type IdShift = { readonly uid: (id: number) => number; readonly gid: (id: number) => number };

type Stats = Awaited<ReturnType<typeof statOf>>;

/**
 * Copies a layer over a tree.
 *
 * @param layer a layer in overlayfs format: character devices 0:0 and opaque directories hide entries of lower layers.
 * @param target the tree of the lower layers. Its top directory is not changed.
 */
export async function layOver(layer: string, target: string, shift: IdShift): Promise<void> {
  await layDirectory(layer, target, { shift, copies: new Map() });
}

/** Copies a directory, with its owner, mode, times and extended attributes, to a path that does not exist. */
export async function copyDirectory(source: string, target: string): Promise<void> {
  const shift: IdShift = { uid: (id) => id, gid: (id) => id };
  await mkdir(bytesOf(target));
  await layOver(source, target, shift);
  copyMetadata(source, target, await statOf(source), shift);
}

type Context = { readonly shift: IdShift /** Copies of files with several hard links, by inode. */; readonly copies: Map<bigint, string> };

async function layDirectory(source: string, target: string, context: Context): Promise<void> {
  for (const name of await readdir(bytesOf(source), { encoding: 'latin1' })) await layEntry(`${source}/${name}`, `${target}/${name}`, context);
}

async function layEntry(source: string, target: string, context: Context): Promise<void> {
  const stat = await statOf(source);
  const existing = lstatSync(bytesOf(target), { throwIfNoEntry: false });
  const isMerged = stat.isDirectory() && existing?.isDirectory() === true && !isOpaque(source);
  if (existing !== undefined && !isMerged) await rm(bytesOf(target), { recursive: true, force: true });
  if (stat.isCharacterDevice() && stat.rdev === 0n) return;
  if (stat.isDirectory()) {
    if (!isMerged) await mkdir(bytesOf(target));
    await layDirectory(source, target, context);
  } else {
    const copy = context.copies.get(stat.ino);
    if (copy !== undefined) return await link(bytesOf(copy), bytesOf(target));
    if (stat.nlink > 1n) context.copies.set(stat.ino, target);
    await makeCopy(source, target, stat);
  }
  // For a directory, do this last: creating entries changes its times.
  copyMetadata(source, target, stat, context.shift);
}

async function makeCopy(source: string, target: string, stat: Stats): Promise<void> {
  if (stat.isFile()) await copyFile(bytesOf(source), bytesOf(target), constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL);
  else if (stat.isSymbolicLink()) await symlink(await readlink(bytesOf(source), 'buffer'), bytesOf(target));
  else {
    const kind = stat.isFIFO() ? 'fifo' : stat.isBlockDevice() ? 'block' : 'char';
    makeNodeAt(AT_FDCWD, target, { kind, ...deviceNumbers(stat.rdev) });
  }
}

/** Copies owner, mode, extended attributes except those of overlayfs, and modification time. */
export function copyMetadata(source: string, target: string, stat: Stats, shift: IdShift): void {
  const [uid, gid] = [shift.uid(Number(stat.uid)), shift.gid(Number(stat.gid))];
  if (stat.isSymbolicLink()) setLinkOwner(AT_FDCWD, target, uid, gid);
  else setNodeOwnerAndMode(AT_FDCWD, target, uid, gid, Number(stat.mode & 0o7777n));
  for (const [name, value] of readXattrs(source)) setXattr(target, name, value);
  const nanoseconds = ((stat.mtimeNs % billion) + billion) % billion;
  setLinkTimes(AT_FDCWD, target, { seconds: Number((stat.mtimeNs - nanoseconds) / billion), nanoseconds: Number(nanoseconds) });
}

const billion = 1_000_000_000n;

const statOf = (path: string) => lstat(bytesOf(path), { bigint: true });
const bytesOf = (path: string): Buffer => Buffer.from(path, 'latin1');
