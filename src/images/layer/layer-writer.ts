/**
 * Writes a layer's entries as a directory that overlayfs can stack: the sink of a tar parser.
 *
 * Synchronous, for a worker thread. Writes nothing outside the directory that it was given, and knows neither digests nor compression.
 */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close as closeFd } from '../../sys/call/syscalls.ts';
import {
  createFileAt,
  makeNodeAt,
  makeSymlinkAt,
  openDirectoryAt,
  setLinkOwner,
  setLinkTimes,
  setNodeOwnerAndMode,
  setOwnerAndMode,
  setTimes,
  setXattr,
  setXattrAt,
  type Timestamp,
} from '../../sys/filesystem/inodes.ts';
import type { TarEntry, TarEntryKind, TarSink } from '../tar/tar.ts';
import { exhausted, named } from './layer-failure.ts';
import { anew, linkTo, makeUnlessDirectory, unlessThere } from './layer-names.ts';
import { shownPath, splitPath, toCleanPath, toLayerPath } from './layer-path.ts';
import { LayerTree } from './layer-tree.ts';
import { noTarSplit, type TarSplitRecorder } from './tar-split.ts';

export type LayerLimits = {
  readonly entriesMax: number;
  /** Paths of directories and whiteouts, which are kept in memory until the end. */
  readonly pathBytesMax: number;
  /** Of all sparse files. */
  readonly holeBytesMax: number;
};

/** What becomes of device nodes: made, left out, or their layer refused. */
export type DevicePolicy = 'keep' | 'skip' | 'refuse';

export type WrittenLayer = {
  /** Space that files and directories take, in blocks of the usual size. */
  readonly sizeBytes: number;
  readonly inodes: number;
  /** Nothing of the layers below is to be seen. */
  readonly isRootOpaque: boolean;
  /** Extended attributes that the file system does not take, by name. */
  readonly refusedXattrs: readonly string[];
};

export type LayerWriter = TarSink & {
  /** To be called after the last entry: sets the times of directories. */
  readonly finish: () => WrittenLayer;
  /** Closes all files. Removes nothing. Idempotent. */
  readonly close: () => void;
};

export const layerLimits: LayerLimits = { entriesMax: 4_000_000, pathBytesMax: 64 << 20, holeBytesMax: 8 * 2 ** 30 };

const blockBytes = 4096;
/** How much may be written between two looks at what space is left. */
const spaceCheckBytes = 32 << 20;
/** Left free for the node, whose other services are on the same disk. */
const spaceReserveBytes = 64 << 20;
const zeros = Buffer.alloc(64 << 10);
const defaultAclXattr = 'system.posix_acl_default';
const opaqueXattr = 'trusted.overlay.opaque';
const opaqueValue = Buffer.from('y');
/** Attributes of the machine that made the image: another overlay's bookkeeping, another policy's labels and signatures. */
const foreignXattr = /^(?:(?:trusted|user)\.overlay\.|security\.(?:selinux|ima|evm|SMACK64))/;

/**
 * @param directory empty, made for this layer.
 * @param freeBytes what the file system still has; asked every 32 MiB.
 * @param contents told of every file and symbolic link, and of all bytes that are in none. Stays the caller's.
 * Sink calls throw BerthError: INVALID_ARGUMENT for an entry that no layer may have, RESOURCE_EXHAUSTED for limits and a full disk.
 */
export function createLayerWriter(
  directory: string,
  limits: LayerLimits,
  freeBytes: () => number,
  contents: TarSplitRecorder = noTarSplit,
  devices: DevicePolicy = 'keep',
): LayerWriter {
  const rootFd = openSync(directory, 'r');
  const mtimes = new Map<string, Timestamp>();
  const whiteouts = new Set<string>();
  const refusedXattrs = new Set<string>();
  const totals = { entries: 0, pathBytes: 0, sizeBytes: blockBytes, inodes: 1, uncheckedBytes: 0, holeBytes: 0 };
  let isRootOpaque = false;
  const umask = process.umask();
  /** Whether a file is made with owner and mode as asked for, so that they need not be set; asked of the first one. */
  let makesAsAsked: boolean | undefined;
  /** The present entry's stored bytes come as framing too. */
  let isSparse = false;
  let file: { readonly fd: number; readonly entry: TarEntry; readonly path: string; crc: number } | undefined;

  const onMade = (path: string, fd: number): void => {
    count(blockBytes);
    if (whiteouts.delete(path)) setXattr(fd, opaqueXattr, opaqueValue);
  };
  const tree = new LayerTree(rootFd, onMade, (dir, name, path) => contents.removeExisting(dir, name, path));

  const count = (sizeBytes: number): void => {
    totals.inodes += 1;
    totals.sizeBytes += Math.ceil(sizeBytes / blockBytes) * blockBytes;
  };

  const remember = (path: string): void => {
    totals.pathBytes += path.length + 64;
    if (totals.pathBytes > limits.pathBytesMax) throw exhausted('has too many directories and whiteouts');
  };

  const checkSpace = (sizeBytes: number): void => {
    totals.uncheckedBytes += sizeBytes;
    if (totals.uncheckedBytes < spaceCheckBytes) return;
    const isTooMuch = freeBytes() - spaceReserveBytes < sizeBytes;
    totals.uncheckedBytes = 0;
    if (isTooMuch) throw exhausted('does not fit on the disk');
  };

  const entry = (found: TarEntry): void => {
    totals.entries += 1;
    if (totals.entries > limits.entriesMax) throw exhausted(`has more than ${limits.entriesMax} entries`);
    isSparse = found.isSparse;
    named(found.path, () => place(found));
  };

  const place = (found: TarEntry): void => {
    const path = toLayerPath(found.path);
    if (path.kind === 'ignored') return;
    if (path.kind === 'root') placeRoot(found);
    else if (path.kind === 'opaque') makeOpaque(path.parent);
    else if (path.kind === 'whiteout') placeWhiteout(path.parent, path.name);
    else if (found.kind === 'directory') placeDirectory(path.parent, path.name, found);
    else if (found.kind === 'file') placeFile(path.parent, path.name, found);
    else if (isLeftOut(found.kind)) return;
    else placeNode(path.parent, path.name, found);
  };

  const isLeftOut = (kind: TarEntryKind): boolean => {
    const isDevice = kind === 'char' || kind === 'block';
    if (isDevice && devices === 'refuse') throw failedPrecondition('is a device node, which this node refuses (image_devices)');
    return isDevice && devices === 'skip';
  };

  const placeRoot = (found: TarEntry): void => {
    if (found.kind !== 'directory') throw invalidArgument("the layer's root is not a directory");
    describeDirectory(rootFd, found);
    mtimes.set('', found.mtime);
  };

  const makeOpaque = (parent: string): void => {
    const fd = tree.enter(parent);
    // overlayfs does not look at this mark on a layer's own root.
    if (tree.path === '') isRootOpaque = true;
    setXattr(fd, opaqueXattr, opaqueValue);
  };

  const placeWhiteout = (parent: string, name: string): void => {
    const dir = tree.enter(parent);
    try {
      makeNodeAt(dir, name, { kind: 'char', major: 0, minor: 0 });
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      hideBelow(dir, name);
      return;
    }
    count(0);
    const path = under(tree.path, name);
    remember(path);
    whiteouts.add(path);
  };

  /** The layer has the name too: what it has stays, and of the layers below nothing shows through. */
  const hideBelow = (dir: number, name: string): void => {
    const fd = openDirectoryAt(dir, name);
    if (fd === undefined) return;
    try {
      setXattr(fd, opaqueXattr, opaqueValue);
    } finally {
      closeFd(fd);
    }
  };

  const placeDirectory = (parent: string, name: string, found: TarEntry): void => {
    checkSpace(blockBytes);
    const dir = tree.enter(parent);
    const path = under(tree.path, name);
    // A link of this name is replaced, not followed: the entry says that a directory is here.
    if (makeUnlessDirectory(dir, name, () => contents.removeExisting(dir, name, path))) count(blockBytes);
    const fd = tree.find(path);
    assert(fd !== undefined, 'it was just made');
    if (whiteouts.delete(path)) setXattr(fd, opaqueXattr, opaqueValue);
    describeDirectory(fd, found);
    if (!mtimes.has(path)) remember(path);
    mtimes.set(path, found.mtime);
  };

  const anewHere = <T>(dir: number, name: string, make: () => T): T => anew(make, () => contents.removeExisting(dir, name, under(tree.path, name)));

  const placeFile = (parent: string, name: string, found: TarEntry): void => {
    checkSpace(found.sizeBytes + blockBytes);
    const dir = tree.enter(parent);
    const path = under(tree.path, name);
    const mode = isOrdinary(found) ? found.mode : 0o600;
    file = { fd: anewHere(dir, name, () => createFileAt(dir, name, mode)), entry: found, path, crc: 0 };
    count(found.sizeBytes);
  };

  const placeNode = (parent: string, name: string, found: TarEntry): void => {
    const dir = tree.enter(parent);
    if (found.kind === 'link') {
      placeLink(dir, name, found);
      return;
    }
    count(0);
    if (found.kind === 'symlink') {
      anewHere(dir, name, () => makeSymlinkAt(dir, name, found.linkPath));
      contents.add({ kind: 'link', path: under(tree.path, name), crc: contents.checksum(Buffer.from(found.linkPath, 'latin1'), 0) });
      setLinkOwner(dir, name, found.uid, found.gid);
    } else {
      const { major, minor } = found;
      const kind = found.kind === 'fifo' ? 'fifo' : found.kind === 'char' ? 'char' : 'block';
      anewHere(dir, name, () => makeNodeAt(dir, name, { kind, major, minor }));
      setNodeOwnerAndMode(dir, name, found.uid, found.gid, found.mode);
    }
    writeXattrs(found, (attribute, value) => setXattrAt(dir, name, attribute, value));
    setLinkTimes(dir, name, found.mtime);
  };

  const placeLink = (dir: number, name: string, found: TarEntry): void => {
    const here = under(tree.path, name);
    const clean = toCleanPath(found.linkPath);
    if (clean === '') throw invalidArgument("a hard link to the layer's root");
    // Its own tree, so that the place of the new name stays open.
    const isMissing = (): never => {
      throw invalidArgument(`hard link to ${shownPath(found.linkPath)}, which is not in this layer`);
    };
    const targets = new LayerTree(rootFd, isMissing, isMissing);
    try {
      const target = splitPath(clean);
      const targetDir = targets.enter(target.parent);
      const link = (): void => linkTo(targetDir, target.name, dir, name, found.linkPath);
      if (under(targets.path, target.name) === here) unlessThere(link);
      else anewHere(dir, name, link);
    } finally {
      targets.leave();
    }
  };

  /** Of root, and of a mode that is made at once. */
  const isOrdinary = ({ uid, gid, mode }: TarEntry): boolean => uid === 0 && gid === 0 && (mode & (0o7000 | umask)) === 0;

  const describeFile = (fd: number, found: TarEntry): void => {
    if (isOrdinary(found)) makesAsAsked ??= isAsAsked(fd, found);
    if (makesAsAsked !== true || !isOrdinary(found)) setOwnerAndMode(fd, found.uid, found.gid, found.mode);
    writeXattrs(found, (attribute, value) => setXattr(fd, attribute, value));
  };

  const describeDirectory = (fd: number, found: TarEntry): void => {
    // It may pass on its group (set-group-id, or the mount option grpid), and its default ACL.
    if (found.gid !== 0 || found.xattrs.has(defaultAclXattr)) makesAsAsked = false;
    setOwnerAndMode(fd, found.uid, found.gid, found.mode);
    writeXattrs(found, (attribute, value) => setXattr(fd, attribute, value));
  };

  const writeXattrs = (found: TarEntry, set: (attribute: string, value: Uint8Array) => void): void => {
    for (const [attribute, value] of found.xattrs) {
      if (foreignXattr.test(attribute)) continue;
      try {
        set(attribute, value);
      } catch (error) {
        if (!isErrno(error, 'EOPNOTSUPP', 'ENOTSUP', 'EPERM')) throw error;
        if (refusedXattrs.size < 8) refusedXattrs.add(attribute);
      }
    }
  };

  const content = (bytes: Buffer): void => {
    // Of whiteouts and other entries that make no file.
    if (file === undefined) {
      if (!isSparse) contents.addBytes(bytes);
      return;
    }
    const { fd, entry: found } = file;
    file.crc = contents.checksum(bytes, file.crc);
    named(found.path, () => {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    });
  };

  /** Stays one on the disk, where it takes nothing; but who copies or checks the file reads all of it. */
  const hole = (sizeBytes: number): void => {
    if (file === undefined) return;
    const { fd, entry: found } = file;
    totals.holeBytes += sizeBytes;
    if (totals.holeBytes > limits.holeBytesMax) throw exhausted(`has sparse files with more than ${limits.holeBytesMax} bytes of holes`);
    totals.sizeBytes -= Math.floor(sizeBytes / blockBytes) * blockBytes;
    named(found.path, () => ftruncateSync(fd, fstatSync(fd).size + sizeBytes));
    for (let left = sizeBytes; left > 0; left -= zeros.length) file.crc = contents.checksum(zeros.subarray(0, left), file.crc);
  };

  const entryEnd = (): void => {
    if (file === undefined) return;
    const { fd, entry: found, path, crc } = file;
    const { sizeBytes, mode, uid, gid } = found;
    file = undefined;
    try {
      named(found.path, () => {
        describeFile(fd, found);
        setTimes(fd, found.mtime);
        contents.add({ kind: 'file', path, crc, sizeBytes, mode, uid, gid, isSparse: found.isSparse });
      });
    } finally {
      closeFd(fd);
    }
  };

  const finish = (): WrittenLayer => {
    // Last of all: every name made in a directory changed its time.
    for (const [path, mtime] of mtimes) {
      const fd = tree.find(path);
      if (fd !== undefined) setTimes(fd, mtime);
    }
    return { sizeBytes: totals.sizeBytes, inodes: totals.inodes, isRootOpaque, refusedXattrs: [...refusedXattrs] };
  };

  let isClosed = false;
  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    if (file !== undefined) closeFd(file.fd);
    file = undefined;
    tree.leave();
    closeSync(rootFd);
  };

  return { framing: (bytes) => contents.addBytes(bytes), entry, content, hole, entryEnd, finish, close };
}

function isAsAsked(fd: number, { uid, gid, mode }: TarEntry): boolean {
  const made = fstatSync(fd);
  return made.uid === uid && made.gid === gid && (made.mode & 0o7777) === mode;
}

function under(parent: string, name: string): string {
  return parent === '' ? name : `${parent}/${name}`;
}
