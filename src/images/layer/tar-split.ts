/**
 * The record of a layer's archive (tar-split): the bytes that are in no file, and the path and checksum of each file. It is written beside the files
 * while they are unpacked. With it the archive can be reassembled bit for bit, and damage on disk is found and located.
 *
 * Format: zstd frames, each preceded by its length (4 bytes, little endian). A part never continues in the next frame. Names are byte strings (one
 * character per byte). The CRC detects corruption, not intentional changes: the diff id detects those.
 */
import { closeSync, fstatSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { failedPrecondition, failedTo, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { moveAt, removeAt } from '../../sys/filesystem/inodes.ts';
import type { RemoveExisting } from './layer-tree.ts';

export type FileContents = {
  readonly kind: 'file';
  readonly path: string;
  readonly crc: number;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** In the archive the file is stored as a map and pieces. They are part of the preceding bytes. */
  readonly isSparse: boolean;
};
/** `crc` is the checksum of the target. */
export type LinkContents = { readonly kind: 'link'; readonly path: string; readonly crc: number };
export type Contents = FileContents | LinkContents;

/** In the order of the archive. A file's part is at the position of its content. */
export type Part =
  | Contents
  /** A view, valid until the next part. */
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  /** The node that had this path was moved to the directory of replacedDirOf(). Its name there is the index of this part among the `replaced` parts. */
  | { readonly kind: 'replaced'; readonly path: string };

export type TarSplitRecorder = {
  /** Returns the checksum of a file after its next bytes. Initially 0. */
  readonly checksum: Checksum;
  readonly add: (contents: Contents) => void;
  /** Records the archive's next bytes that are in no file. */
  readonly addBytes: (bytes: Buffer) => void;
  /** Moves the existing node to the directory of replacedDirOf(), because it is needed to reassemble the archive. */
  readonly removeExisting: RemoveExisting;
  /** Writes what is still in memory. @returns the length of the record. */
  readonly finish: () => number;
  /** Idempotent. */
  readonly close: () => void;
};

/** CRC-32 as in gzip. */
export type Checksum = (bytes: Uint8Array, crc: number) => number;

/** Records nothing, for layers that are never verified or reassembled. */
export const noTarSplit: TarSplitRecorder = {
  checksum: () => 0,
  add: () => undefined,
  addBytes: () => undefined,
  removeExisting: removeAt,
  finish: () => 0,
  close: () => undefined,
};

/** The directory beside the record with what later entries of the same archive replaced. */
const replacedName = 'replaced';
/** Smaller frames cost more CPU, because each has its own compressor. */
const frameBytesMax = 256 << 10;
/** The largest part without its bytes: letter, numbers, and the longest path. */
const partBytesMax = 32 + 4096;
const lengthBytes = 4;
/** The fastest regular level. It still compresses the headers of a tar to a twentieth. */
const compression = { chunkSize: 64 << 10, params: { [constants.ZSTD_c_compressionLevel]: 1 } };

const letters = { bytes: 0x74, file: 0x66, sparse: 0x73, link: 0x6c, replaced: 0x64 } as const;

/** Returns the directory with the replaced nodes of a layer. */
export function replacedDirOf(tarSplitFile: string): string {
  return join(dirname(tarSplitFile), replacedName);
}

/** Writes the record. */
export class TarSplitWriter implements TarSplitRecorder {
  readonly checksum: Checksum;
  readonly #file: string;
  readonly #fd: number;
  readonly #frame = Buffer.allocUnsafeSlow(frameBytesMax);
  #fill = 0;
  /** Offset of the length field of the bytes part at the end of the frame. -1 if the last part is of another kind. */
  #openAt = -1;
  #writtenBytes = 0;
  #replacedCount = 0;
  #replacedFd = -1;
  #isClosed = false;

  /**
   * Creates the file.
   *
   * @param file must not exist.
   * @param checksum a faster implementation than zlib's, if there is one.
   */
  constructor(file: string, checksum: Checksum = crc32) {
    this.#file = file;
    this.checksum = checksum;
    this.#fd = openSync(file, 'wx', 0o600);
  }

  add(contents: Contents): void {
    this.#beginPart(letters[contents.kind === 'file' && contents.isSparse ? 'sparse' : contents.kind]);
    this.#frame.writeUInt32LE(contents.crc, this.#fill);
    this.#fill += 4;
    if (contents.kind === 'file') this.#putStatus(contents);
    this.#putPath(contents.path);
  }

  addBytes(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#openAt < 0 || this.#fill === frameBytesMax) this.#beginBytes();
      const copied = bytes.copy(this.#frame, this.#fill, at);
      at += copied;
      this.#fill += copied;
    }
  }

  removeExisting(dir: number, name: string, path: string): void {
    if (this.#replacedFd < 0) this.#replacedFd = createReplacedDir(this.#file);
    try {
      moveAt(dir, name, this.#replacedFd, String(this.#replacedCount));
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return;
      throw error;
    }
    this.#replacedCount += 1;
    this.#beginPart(letters.replaced);
    this.#putPath(path);
  }

  finish(): number {
    this.#flush();
    return this.#writtenBytes;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#replacedFd >= 0) closeSync(this.#replacedFd);
    closeSync(this.#fd);
  }

  #beginPart(letter: number): void {
    this.#endBytes();
    if (this.#fill + partBytesMax > frameBytesMax) this.#flush();
    this.#frame[this.#fill] = letter;
    this.#fill += 1;
  }

  #beginBytes(): void {
    this.#beginPart(letters.bytes);
    this.#openAt = this.#fill;
    this.#fill += 4;
  }

  /** Completes the bytes part at the end of the frame, if there is one. */
  #endBytes(): void {
    if (this.#openAt >= 0) this.#frame.writeUInt32LE(this.#fill - this.#openAt - 4, this.#openAt);
    this.#openAt = -1;
  }

  #putStatus(file: FileContents): void {
    this.#frame.writeDoubleLE(file.sizeBytes, this.#fill);
    this.#frame.writeUInt16LE(file.mode, this.#fill + 8);
    this.#frame.writeUInt32LE(file.uid, this.#fill + 10);
    this.#frame.writeUInt32LE(file.gid, this.#fill + 14);
    this.#fill += 18;
  }

  #putPath(path: string): void {
    this.#frame.writeUInt16LE(path.length, this.#fill);
    this.#fill += 2 + this.#frame.write(path, this.#fill + 2, 'latin1');
  }

  #flush(): void {
    if (this.#fill === 0) return;
    this.#endBytes();
    const bytes = zstdCompressSync(this.#frame.subarray(0, this.#fill), compression);
    const length = Buffer.alloc(lengthBytes);
    length.writeUInt32LE(bytes.length);
    writeAll(this.#fd, Buffer.concat([length, bytes]));
    this.#writtenBytes += lengthBytes + bytes.length;
    this.#fill = 0;
  }
}

/** @returns an fd of the new directory. */
function createReplacedDir(tarSplitFile: string): number {
  const directory = replacedDirOf(tarSplitFile);
  mkdirSync(directory, { mode: 0o700 });
  return openSync(directory, 'r');
}

function writeAll(fd: number, bytes: Buffer): void {
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
  } catch (error) {
    throw failedTo('write the tar metadata of the layer', error);
  }
}

/** Reads a record. @throws {BerthError} FAILED_PRECONDITION if it is corrupt. @throws ENOENT if the file is missing. */
export function* readTarSplit(file: string): Generator<Part, undefined> {
  const fd = openSync(file, 'r');
  try {
    const { size } = fstatSync(fd);
    for (let at = 0; at < size; ) {
      const length = readAt(fd, lengthBytes, at).readUInt32LE(0);
      if (length > 2 * frameBytesMax) throw corrupt();
      yield* partsOf(decompressed(readAt(fd, length, at + lengthBytes)));
      at += lengthBytes + length;
    }
  } finally {
    closeSync(fd);
  }
}

function readAt(fd: number, length: number, at: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  if (readSync(fd, bytes, 0, length, at) !== length) throw corrupt();
  return bytes;
}

function decompressed(bytes: Buffer): Buffer {
  try {
    return zstdDecompressSync(bytes, { maxOutputLength: frameBytesMax });
  } catch (error) {
    throw failedPrecondition(`the tar metadata of the layer is corrupt: ${reasonOf(error)}`, error);
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
      if (next > frame.length) throw corrupt();
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
    if (letter !== letters.file && letter !== letters.sparse) throw corrupt();
    const sizeBytes = frame.readDoubleLE(at + 4);
    const { path, next } = pathAt(frame, at + 22);
    const [mode, uid, gid] = [frame.readUInt16LE(at + 12), frame.readUInt32LE(at + 14), frame.readUInt32LE(at + 18)];
    return { part: { kind: 'file', crc, sizeBytes, mode, uid, gid, path, isSparse: letter === letters.sparse }, next };
  } catch (error) {
    // Includes RangeError for numbers beyond the end of the frame.
    throw corrupt(error);
  }
}

function pathAt(frame: Buffer, at: number): { readonly path: string; readonly next: number } {
  const next = at + 2 + frame.readUInt16LE(at);
  if (next > frame.length) throw corrupt();
  return { path: frame.toString('latin1', at + 2, next), next };
}

function corrupt(cause?: unknown): Error {
  return failedPrecondition('the tar metadata of the layer is corrupt', cause);
}
