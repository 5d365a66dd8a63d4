/**
 * Archives the changes of a container to its rootfs: the upper directory of its overlay as a tar, and the deleted paths.
 *
 * The container must be frozen: the directory must not change meanwhile. Names are byte strings (one character per byte).
 */
import { type BigIntStats, constants } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import { failedPrecondition } from '../../lib/errors.ts';
import { type TarEntry, tarEnd, tarHeader, tarPadding } from '../../lib/tar-header.ts';
import { isErrno } from '../call/ffi.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS } from '../call/syscalls.ts';
import { deviceNumbers } from './block-devices.ts';
import type { IdShift } from './copy-tree.ts';
import { isOpaque, isRedirected, readXattrs } from './xattrs.ts';

export type ChangesRequest = {
  /** The upper directory of the overlay. */
  readonly upper: string;
  /** The layers below, topmost first. */
  readonly layerDirs: readonly string[];
  /** Maps owners to those that the container sees. */
  readonly shift: IdShift;
  /** Called with each path, absolute in the container, that exists in a layer but not in the container. */
  readonly onDeleted: (path: string) => void;
};

type Context = ChangesRequest & {
  /** The first path of each file with several hard links, by inode. */ readonly links: Map<bigint, string>;
};

const chunkBytes = 256 * 1024;
const billion = 1_000_000_000n;

/** @returns the complete archive in chunks. Sockets are skipped, because tar cannot store them. @throws {BerthError} FAILED_PRECONDITION for entries with overlayfs redirects (redirect_dir, metacopy). */
export async function* archiveChanges(request: ChangesRequest): AsyncGenerator<Buffer> {
  yield* archiveDirectory({ ...request, links: new Map() }, '');
  yield tarEnd;
}

async function* archiveDirectory(context: Context, path: string): AsyncGenerator<Buffer> {
  const names = (await readdir(bytesOf(`${context.upper}/${path}`), { encoding: 'latin1' })).sort();
  if (path !== '' && isOpaque(`${context.upper}/${path}`)) await reportHidden(context, path, new Set(names));
  for (const name of names) yield* archiveEntry(context, path === '' ? name : `${path}/${name}`);
}

async function* archiveEntry(context: Context, path: string): AsyncGenerator<Buffer> {
  const source = `${context.upper}/${path}`;
  const stat = await lstat(bytesOf(source), { bigint: true });
  if (stat.isCharacterDevice() && stat.rdev === 0n) return context.onDeleted(`/${path}`);
  if (stat.isSocket()) return;
  if (isRedirected(source)) throw failedPrecondition(`archive /${path}: overlayfs stores its contents elsewhere (redirect_dir or metacopy)`);
  const first = stat.isDirectory() ? undefined : context.links.get(stat.ino);
  const entry = await entryOf(context, path, stat, first);
  yield tarHeader(entry);
  if (entry.kind === 'file') yield* contentsOf(source, entry.size);
  if (entry.kind === 'directory') yield* archiveDirectory(context, path);
  else if (stat.nlink > 1n && first === undefined) context.links.set(stat.ino, path);
}

async function entryOf({ upper, shift }: Context, path: string, stat: BigIntStats, first: string | undefined): Promise<TarEntry> {
  const source = `${upper}/${path}`;
  const common = {
    path,
    mode: Number(stat.mode & 0o7777n),
    uid: shift.uid(Number(stat.uid)),
    gid: shift.gid(Number(stat.gid)),
    size: 0,
    mtimeSeconds: Number(stat.mtimeNs / billion),
  };
  if (first !== undefined) return { ...common, kind: 'hardlink', target: first };
  const attributes = readXattrs(source);
  if (stat.isDirectory()) return { ...common, attributes, kind: 'directory' };
  if (stat.isFile()) return { ...common, attributes, kind: 'file', size: Number(stat.size) };
  if (stat.isSymbolicLink())
    return { ...common, attributes, kind: 'symlink', target: (await readlink(bytesOf(source), 'buffer')).toString('latin1') };
  if (stat.isFIFO()) return { ...common, attributes, kind: 'fifo' };
  return { ...common, attributes, kind: stat.isBlockDevice() ? 'block' : 'char', device: deviceNumbers(stat.rdev) };
}

/** Yields exactly `size` bytes, as in the header, and the padding. */
export async function* contentsOf(path: string, size: number): AsyncGenerator<Buffer> {
  const file = await open(bytesOf(path), constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    for (let left = size; left > 0; ) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(Math.min(chunkBytes, left)));
      if (bytesRead === 0) throw new Error(`read ${JSON.stringify(path)}: file was truncated`);
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
  yield tarPadding(size);
}

/** Reports the entries that an opaque directory hides. Reporting entries that were hidden before has no effect. */
async function reportHidden({ layerDirs, onDeleted }: Context, path: string, shown: ReadonlySet<string>): Promise<void> {
  const hidden = new Set<string>();
  for (const layer of layerDirs) for (const name of await namesIn(layer, path)) if (!shown.has(name)) hidden.add(name);
  for (const name of [...hidden].sort()) onDeleted(`/${path}/${name}`);
}

/** Returns the names in a directory of a layer. Does not follow symbolic links, which come from the image. */
async function namesIn(layer: string, path: string): Promise<string[]> {
  const top = openat(AT_FDCWD, layer, O_PATH | O_DIRECTORY);
  try {
    const directory = openat2(top, path, { flags: O_PATH | O_DIRECTORY, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS });
    try {
      return await readdir(`/proc/self/fd/${directory}`, { encoding: 'latin1' });
    } finally {
      close(directory);
    }
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return [];
    throw error;
  } finally {
    close(top);
  }
}

const bytesOf = (path: string): Buffer => Buffer.from(path, 'latin1');
