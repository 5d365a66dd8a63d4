/**
 * What a layer's archive was: its bytes that are in no file, and of each file where it is and what was in it; written beside the files while they are
 * unpacked. By it the archive can be put together again, to the bit, and damage on the disk is found and named.
 *
 * Frames of zstd, each with its length before it; a frame holds whole parts. Names are byte strings (one character a byte). A CRC finds what broke, not
 * what somebody changed on purpose: that is the diff id's business.
 */
import { closeSync, fstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { failedPrecondition, failedTo, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { moveAt, removeAt } from '../../sys/filesystem/inodes.ts';

export type FileContents = {
  readonly kind: 'file';
  readonly path: string;
  readonly crc: number;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Its content in the archive, a map and pieces, is among the bytes before it. */
  readonly isSparse: boolean;
};
/** `crc` of the target. */
export type LinkContents = { readonly kind: 'link'; readonly path: string; readonly crc: number };
export type Contents = FileContents | LinkContents;

/** In the archive's order; a file stands where its content does. */
export type Part =
  | Contents
  /** A view that is good until the next part. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  /** What had this path until here lies in `replacedDir` by the number of this part among its like. */
  | { readonly kind: 'replaced'; readonly path: string };

export type TarSplitRecorder = {
  /** Of a file's next bytes, going on from that of those before; at first 0. */
  readonly checksum: Checksum;
  readonly add: (contents: Contents) => void;
  /** The archive's next bytes that are in no file. */
  readonly addBytes: (bytes: Buffer) => void;
  /** Makes room for another of the same name: what has it is moved aside, with all beneath it, for it is of the archive too. Succeeds when nothing has it. */
  readonly takeAway: (dir: number, name: string, path: string) => void;
  /** Writes what is left to write. @returns the record's length. */
  readonly finish: () => number;
  /** Idempotent. */
  readonly close: () => void;
};

/** CRC-32, as gzip has it. */
export type Checksum = (bytes: Uint8Array, crc: number) => number;

/** For layers that nobody will check or put together again. */
export const noTarSplit: TarSplitRecorder = {
  checksum: () => 0,
  add: () => undefined,
  addBytes: () => undefined,
  takeAway: removeAt,
  finish: () => 0,
  close: () => undefined,
};

/** Beside the record: what later entries of the same archive replaced. */
const replacedName = 'replaced';
/** Smaller frames cost more CPU: each is a compressor of its own. */
const frameBytesMax = 256 << 10;
/** A part without its bytes: letter, numbers, and a path as long as any may be. */
const partBytesMax = 32 + 4096;
const lengthBytes = 4;
/** The fastest of the usual ones; headers of a tar shrink to a twentieth all the same. */
const compression = { chunkSize: 64 << 10, params: { [constants.ZSTD_c_compressionLevel]: 1 } };

const letters = { bytes: 0x74, file: 0x66, sparse: 0x73, link: 0x6c, replaced: 0x64 } as const;

/** @returns where what was replaced lies, for the record of a layer. */
export function replacedDirOf(tarSplitFile: string): string {
  return join(dirname(tarSplitFile), replacedName);
}

/**
 * @param file must not be there yet.
 * @param checksum a faster one than zlib's, where there is one.
 */
export function createTarSplit(file: string, checksum: Checksum = crc32): TarSplitRecorder {
  const fd = openSync(file, 'wx', 0o600);
  const frame = Buffer.allocUnsafeSlow(frameBytesMax);
  let fill = 0;
  /** Where the length of the bytes is to stand that more may be added to; -1 when the last part is another. */
  let openAt = -1;
  let writtenBytes = 0;
  let replaced = 0;
  let replacedFd = -1;
  let isClosed = false;

  const endBytes = (): void => {
    if (openAt >= 0) frame.writeUInt32LE(fill - openAt - 4, openAt);
    openAt = -1;
  };

  const flush = (): void => {
    if (fill === 0) return;
    endBytes();
    const bytes = zstdCompressSync(frame.subarray(0, fill), compression);
    const length = Buffer.alloc(lengthBytes);
    length.writeUInt32LE(bytes.length);
    writeAll(fd, Buffer.concat([length, bytes]));
    writtenBytes += lengthBytes + bytes.length;
    fill = 0;
  };

  const begin = (letter: number): void => {
    endBytes();
    if (fill + partBytesMax > frameBytesMax) flush();
    frame[fill] = letter;
    fill += 1;
  };

  const putPath = (path: string): void => {
    frame.writeUInt16LE(path.length, fill);
    fill += 2 + frame.write(path, fill + 2, 'latin1');
  };

  const addBytes = (bytes: Buffer): void => {
    for (let at = 0; at < bytes.length; ) {
      if (openAt < 0 || fill === frameBytesMax) beginBytes();
      const copied = bytes.copy(frame, fill, at);
      at += copied;
      fill += copied;
    }
  };

  const beginBytes = (): void => {
    begin(letters.bytes);
    openAt = fill;
    fill += 4;
  };

  const add = (contents: Contents): void => {
    begin(letters[contents.kind === 'file' && contents.isSparse ? 'sparse' : contents.kind]);
    frame.writeUInt32LE(contents.crc, fill);
    fill += 4;
    if (contents.kind === 'file') {
      frame.writeDoubleLE(contents.sizeBytes, fill);
      frame.writeUInt16LE(contents.mode, fill + 8);
      frame.writeUInt32LE(contents.uid, fill + 10);
      frame.writeUInt32LE(contents.gid, fill + 14);
      fill += 18;
    }
    putPath(contents.path);
  };

  const takeAway = (dir: number, name: string, path: string): void => {
    if (replacedFd < 0) {
      const directory = replacedDirOf(file);
      mkdirSync(directory, { mode: 0o700 });
      replacedFd = openSync(directory, 'r');
    }
    try {
      moveAt(dir, name, replacedFd, String(replaced));
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      throw error;
    }
    replaced += 1;
    begin(letters.replaced);
    putPath(path);
  };

  const finish = (): number => {
    flush();
    return writtenBytes;
  };

  const close = (): void => {
    if (isClosed) return;
    isClosed = true;
    if (replacedFd >= 0) closeSync(replacedFd);
    closeSync(fd);
  };
  return { checksum, add, addBytes, takeAway, finish, close };
}

function writeAll(fd: number, bytes: Buffer): void {
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  } catch (error) {
    throw failedTo('writing the record of the files', error);
  }
}

/** @throws {BerthError} FAILED_PRECONDITION for a file that is no such record, or damaged; ENOENT for none. */
export function* readTarSplit(file: string): Generator<Part, undefined> {
  const fd = openSync(file, 'r');
  try {
    const { size } = fstatSync(fd);
    for (let at = 0; at < size; ) {
      const length = readAt(fd, lengthBytes, at).readUInt32LE(0);
      if (length > 2 * frameBytesMax) throw damaged();
      yield* partsOf(decompressed(readAt(fd, length, at + lengthBytes)));
      at += lengthBytes + length;
    }
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, length: number, at: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  if (readSync(fd, bytes, 0, length, at) !== length) throw damaged();
  return bytes;
}

function decompressed(bytes: Buffer): Buffer {
  try {
    return zstdDecompressSync(bytes, { maxOutputLength: frameBytesMax });
  } catch (error) {
    throw failedPrecondition(`the record of the files is damaged: ${reasonOf(error)}`, error);
  }
}

function* partsOf(frame: Buffer): Generator<Part, undefined> {
  for (let at = 0; at < frame.length; ) {
    const { part, next } = partAt(frame, at);
    yield part;
    at = next;
  }
}

function partAt(frame: Buffer, start: number): { readonly part: Part; readonly next: number } {
  try {
    const letter = frame[start];
    const at = start + 1;
    if (letter === letters.bytes) {
      const next = at + 4 + frame.readUInt32LE(at);
      if (next > frame.length) throw damaged();
      return { part: { kind: 'bytes', bytes: frame.subarray(at + 4, next) }, next };
    }
    if (letter === letters.replaced) {
      const { path, next } = pathAt(frame, at);
      return { part: { kind: 'replaced', path }, next };
    }
    const crc = frame.readUInt32LE(at);
    if (letter === letters.link) {
      const { path, next } = pathAt(frame, at + 4);
      return { part: { kind: 'link', crc, path }, next };
    }
    if (letter !== letters.file && letter !== letters.sparse) throw damaged();
    const sizeBytes = frame.readDoubleLE(at + 4);
    const { path, next } = pathAt(frame, at + 22);
    const [mode, uid, gid] = [frame.readUInt16LE(at + 12), frame.readUInt32LE(at + 14), frame.readUInt32LE(at + 18)];
    return { part: { kind: 'file', crc, sizeBytes, mode, uid, gid, path, isSparse: letter === letters.sparse }, next };
  } catch (error) {
    // Also numbers that would lie beyond the frame.
    throw damaged(error);
  }
}

function pathAt(frame: Buffer, at: number): { readonly path: string; readonly next: number } {
  const next = at + 2 + frame.readUInt16LE(at);
  if (next > frame.length) throw damaged();
  return { path: frame.toString('latin1', at + 2, next), next };
}

function damaged(cause?: unknown): Error {
  return failedPrecondition('the record of the files is damaged', cause);
}
