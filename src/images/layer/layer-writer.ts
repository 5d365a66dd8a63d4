/**
 * Writes the entries of a layer's archive as a directory that overlayfs can mount as a layer: the sink of a tar parser.
 *
 * Synchronous, for a worker thread. Writes only below the given directory. Independent of digests and compression.
 */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close as closeFd } from '../../sys/call/syscalls.ts';
import { createFileAt, makeNodeAt, makeSymlinkAt, openDirectoryAt, setTimes, setXattr, type Timestamp } from '../../sys/filesystem/inodes.ts';
import type { TarEntry, TarEntryKind, TarSink } from '../tar/tar.ts';
import { named } from './layer-failure.ts';
import { LayerMetadata } from './layer-metadata.ts';
import { createReplacing, ensureDirectory, ignoreExisting, linkTo } from './layer-names.ts';
import { shownPath, splitPath, toCleanPath, toLayerPath } from './layer-path.ts';
import { LayerTree } from './layer-tree.ts';
import { blockBytes, type LayerLimits, LayerUsage } from './layer-usage.ts';
import { noTarSplit, type TarSplitRecorder } from './tar-split.ts';

/** What to do with device nodes: create them, skip them, or refuse the layer. */
export type DevicePolicy = 'keep' | 'skip' | 'refuse';

export type WrittenLayer = {
  /** Space of files and directories, in whole blocks. */
  readonly sizeBytes: number;
  readonly inodes: number;
  /** The layer hides everything of the layers below. */
  readonly isRootOpaque: boolean;
  /** Names of extended attributes that the file system did not accept. */
  readonly refusedXattrs: readonly string[];
  /** Directories without an entry, by path. See implied-directories.ts. */
  readonly impliedDirectories: ReadonlySet<string>;
};

type OpenFile = { readonly fd: number; readonly entry: TarEntry; readonly path: string; crc: number };

const zeros = Buffer.alloc(64 << 10);
const opaqueXattr = 'trusted.overlay.opaque';
const opaqueValue = Buffer.from('y');

/** The methods of the sink throw BerthError: INVALID_ARGUMENT for an entry that is not allowed in a layer, RESOURCE_EXHAUSTED for limits and a full disk. */
export class LayerWriter implements TarSink {
  readonly #rootFd: number;
  readonly #usage: LayerUsage;
  readonly #metadata = new LayerMetadata();
  readonly #contents: TarSplitRecorder;
  readonly #devices: DevicePolicy;
  readonly #tree: LayerTree;
  /** Times of directories by path. They are set at the end. */
  readonly #mtimes = new Map<string, Timestamp>();
  readonly #whiteouts = new Set<string>();
  readonly #implied = new Set<string>();
  #isRootOpaque = false;
  /** Stored bytes of the current entry arrive as framing, too. */
  #isSparse = false;
  /** The file that the content belongs to. Undefined for entries without one. */
  #file: OpenFile | undefined;
  #isClosed = false;

  /**
   * @param directory empty, created for this layer.
   * @param freeBytes returns the free space of the file system. Called every 32 MiB.
   * @param contents records all files, symbolic links, and bytes that are in neither. The caller closes it.
   */
  constructor(
    directory: string,
    limits: LayerLimits,
    freeBytes: () => number,
    contents: TarSplitRecorder = noTarSplit,
    devices: DevicePolicy = 'keep',
  ) {
    this.#rootFd = openSync(directory, 'r');
    this.#usage = new LayerUsage(limits, freeBytes);
    this.#contents = contents;
    this.#devices = devices;
    const onCreated = (path: string, fd: number): void => this.#countDirectory(path, fd);
    this.#tree = new LayerTree(this.#rootFd, onCreated, (dir, name, path) => contents.removeExisting(dir, name, path));
  }

  framing(bytes: Buffer): void {
    // The record keeps them: what follows the end of the archive may be long.
    this.#usage.checkSpace(bytes.length);
    this.#contents.addBytes(bytes);
  }

  entry(entry: TarEntry): void {
    this.#usage.addEntry();
    this.#isSparse = entry.isSparse;
    named(entry.path, () => this.#place(entry));
  }

  content(bytes: Buffer): void {
    // Content of whiteouts and of other entries that create no file.
    if (this.#file === undefined) {
      if (!this.#isSparse) this.#contents.addBytes(bytes);
      return;
    }
    const { fd, entry } = this.#file;
    this.#file.crc = this.#contents.checksum(bytes, this.#file.crc);
    named(entry.path, () => {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    });
  }

  /** Keeps the hole as a hole on disk. */
  hole(sizeBytes: number): void {
    if (this.#file === undefined) return;
    const { fd, entry } = this.#file;
    this.#usage.addHole(sizeBytes);
    named(entry.path, () => ftruncateSync(fd, fstatSync(fd).size + sizeBytes));
    for (let left = sizeBytes; left > 0; left -= zeros.length) {
      this.#file.crc = this.#contents.checksum(zeros.subarray(0, left), this.#file.crc);
    }
  }

  entryEnd(): void {
    if (this.#file === undefined) return;
    const { fd, entry, path, crc } = this.#file;
    const { sizeBytes, mode, uid, gid, isSparse } = entry;
    this.#file = undefined;
    try {
      named(entry.path, () => {
        this.#metadata.setFile(fd, entry);
        this.#contents.add({ kind: 'file', path, crc, sizeBytes, mode, uid, gid, isSparse });
      });
    } finally {
      closeFd(fd);
    }
  }

  /** Sets the times of directories. To be called after the last entry. */
  finish(): WrittenLayer {
    // At the end, because each new name in a directory changes its time.
    for (const [path, mtime] of this.#mtimes) {
      const fd = this.#tree.find(path);
      if (fd !== undefined) setTimes(fd, mtime);
    }
    const { sizeBytes, inodes } = this.#usage;
    const { refusedXattrs } = this.#metadata;
    return { sizeBytes, inodes, isRootOpaque: this.#isRootOpaque, refusedXattrs, impliedDirectories: this.#implied };
  }

  /** Closes all files. Removes nothing. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#file !== undefined) closeFd(this.#file.fd);
    this.#file = undefined;
    this.#tree.leave();
    closeSync(this.#rootFd);
  }

  #place(entry: TarEntry): void {
    const path = toLayerPath(entry.path);
    if (path.kind === 'ignored') return;
    if (path.kind === 'root') this.#placeRoot(entry);
    else if (path.kind === 'opaque') this.#placeOpaque(path.parent);
    else if (path.kind === 'whiteout') this.#placeWhiteout(path.parent, path.name);
    else if (entry.kind === 'directory') this.#placeDirectory(path.parent, path.name, entry);
    else if (entry.kind === 'file') this.#placeFile(path.parent, path.name, entry);
    else if (this.#isSkipped(entry.kind)) return;
    else if (entry.kind === 'link') this.#placeLink(path.parent, path.name, entry);
    else this.#placeNode(path.parent, path.name, entry);
  }

  #isSkipped(kind: TarEntryKind): boolean {
    const isDevice = kind === 'char' || kind === 'block';
    if (isDevice && this.#devices === 'refuse') throw failedPrecondition('device nodes are refused on this node (image_devices)');
    return isDevice && this.#devices === 'skip';
  }

  #placeRoot(entry: TarEntry): void {
    if (entry.kind !== 'directory') throw invalidArgument("the layer's root is not a directory");
    this.#metadata.setDirectory(this.#rootFd, entry);
    this.#mtimes.set('', entry.mtime);
  }

  #placeOpaque(parent: string): void {
    const fd = this.#tree.enter(parent);
    // overlayfs ignores the attribute on a layer's root.
    if (this.#tree.path === '') this.#isRootOpaque = true;
    markOpaque(fd);
  }

  #placeWhiteout(parent: string, name: string): void {
    const dir = this.#tree.enter(parent);
    try {
      makeNodeAt(dir, name, { kind: 'char', major: 0, minor: 0 });
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      // The layer itself has the name: its own node stays, and a directory hides that of the layers below.
      markOpaqueAt(dir, name);
      this.#implied.delete(this.#pathOf(name));
      return;
    }
    this.#usage.addInode(0);
    const path = this.#pathOf(name);
    this.#usage.addPath(path);
    this.#whiteouts.add(path);
  }

  #placeDirectory(parent: string, name: string, entry: TarEntry): void {
    this.#usage.checkSpace(blockBytes);
    const dir = this.#tree.enter(parent);
    const path = this.#pathOf(name);
    // A symbolic link of this name is replaced, not followed: the entry is a directory.
    if (ensureDirectory(dir, name, () => this.#contents.removeExisting(dir, name, path))) this.#usage.addInode(blockBytes);
    const fd = this.#tree.find(path);
    assert(fd !== undefined, 'the directory was just created');
    if (this.#whiteouts.delete(path)) markOpaque(fd);
    this.#implied.delete(path);
    this.#metadata.setDirectory(fd, entry);
    if (!this.#mtimes.has(path)) this.#usage.addPath(path);
    this.#mtimes.set(path, entry.mtime);
  }

  #placeFile(parent: string, name: string, entry: TarEntry): void {
    this.#usage.checkSpace(entry.sizeBytes + blockBytes);
    const dir = this.#tree.enter(parent);
    const path = this.#pathOf(name);
    const mode = this.#metadata.initialMode(entry);
    this.#file = { fd: this.#create(dir, name, () => createFileAt(dir, name, mode)), entry, path, crc: 0 };
    this.#usage.addInode(entry.sizeBytes);
  }

  #placeNode(parent: string, name: string, entry: TarEntry): void {
    const dir = this.#tree.enter(parent);
    this.#usage.addInode(0);
    if (entry.kind === 'symlink') {
      this.#create(dir, name, () => makeSymlinkAt(dir, name, entry.linkPath));
      const crc = this.#contents.checksum(Buffer.from(entry.linkPath, 'latin1'), 0);
      this.#contents.add({ kind: 'link', path: this.#pathOf(name), crc });
    } else {
      const { major, minor } = entry;
      const kind = entry.kind === 'fifo' ? 'fifo' : entry.kind === 'char' ? 'char' : 'block';
      this.#create(dir, name, () => makeNodeAt(dir, name, { kind, major, minor }));
    }
    this.#metadata.setNode(dir, name, entry);
  }

  #placeLink(parent: string, name: string, entry: TarEntry): void {
    const dir = this.#tree.enter(parent);
    const path = this.#pathOf(name);
    const clean = toCleanPath(entry.linkPath);
    if (clean === '') throw invalidArgument("hard link to the layer's root");
    const isMissing = (): never => {
      throw invalidArgument(`hard link to ${shownPath(entry.linkPath)}, which is not in this layer`);
    };
    // A second tree, so that `dir` stays open.
    const targets = new LayerTree(this.#rootFd, isMissing, isMissing);
    try {
      const target = splitPath(clean);
      const targetDir = targets.enter(target.parent);
      const link = (): void => linkTo(targetDir, target.name, dir, name, entry.linkPath);
      if (joinPath(targets.path, target.name) === path) ignoreExisting(link);
      else this.#create(dir, name, link);
    } finally {
      targets.leave();
    }
  }

  /** Creates a node in the current directory in place of an existing one: of two entries with the same path, the last one wins. */
  #create<T>(dir: number, name: string, create: () => T): T {
    return createReplacing(create, () => this.#contents.removeExisting(dir, name, this.#pathOf(name)));
  }

  #countDirectory(path: string, fd: number): void {
    this.#usage.addInode(blockBytes);
    this.#usage.addPath(path);
    // A directory in place of one that the layer has removed is a new one.
    if (this.#whiteouts.delete(path)) markOpaque(fd);
    else this.#implied.add(path);
  }

  #pathOf(name: string): string {
    return joinPath(this.#tree.path, name);
  }
}

/** Makes a directory hide everything that the layers below have in it. */
function markOpaque(fd: number): void {
  setXattr(fd, opaqueXattr, opaqueValue);
}

/** Like markOpaque(), for a name that may be something else than a directory. */
function markOpaqueAt(dir: number, name: string): void {
  const fd = openDirectoryAt(dir, name);
  if (fd === undefined) return;
  try {
    markOpaque(fd);
  } finally {
    closeFd(fd);
  }
}

function joinPath(parent: string, name: string): string {
  return parent === '' ? name : `${parent}/${name}`;
}
