/**
 * Parses a tar archive while its bytes arrive, in chunks of any size. Supports old, ustar, GNU and PAX headers.
 *
 * Pure: passes what it finds to a sink. Paths, link targets and attribute names are byte strings (one character per byte). The sink decides whether
 * they may be used. Sources: POSIX.1-2024 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" (facts).
 */
import assert from 'node:assert/strict';
import { invalidArgument, unimplemented } from '../../lib/errors.ts';
import { applyPaxRecords, inherited, type PaxValues } from './pax.ts';
import {
  checkCount,
  createSparseReader,
  type Extent,
  isExtended,
  oldExtents,
  paxLayout,
  type SparseLayout,
  type SparseReader,
  sparseName,
} from './sparse.ts';
import { createSumCheck, parseDeviceNumber, parseNumber, parseSigned } from './tar-numbers.ts';

export type TarEntryKind = 'file' | 'directory' | 'symlink' | 'link' | 'char' | 'block' | 'fifo';

export type TarEntry = {
  readonly kind: TarEntryKind;
  readonly path: string;
  /** Size of a file, including holes. 0 for other kinds. */
  readonly sizeBytes: number;
  /** The content is stored as a map and extents. */
  readonly isSparse: boolean;
  /** Permission bits, including set-id and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number };
  /** Target of a symbolic or hard link. */
  readonly linkPath: string;
  readonly major: number;
  readonly minor: number;
  /** Extended attributes by name. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
};

/** For each entry, calls entry(), then content() and hole() in the order of the file, then entryEnd(). */
export type TarSink = {
  /** Receives all other bytes of the archive: headers, padding, what follows the end, and the stored form of sparse files. */
  readonly framing?: (bytes: Buffer) => void;
  readonly entry: (entry: TarEntry) => void;
  /** @param bytes a view, valid only during the call. */
  readonly content: (bytes: Buffer) => void;
  /** A range of zeros that a sparse file does not store. */
  readonly hole: (sizeBytes: number) => void;
  readonly entryEnd: () => void;
};

const blockBytes = 512;
/** For long names, PAX headers and global headers. Far above what PATH_MAX and 64 KiB of attributes need. */
const metadataBytesMax = 1 << 20;
/** Extended headers before one entry. Usually at most one of each type. */
const metadataHeadersMax = 64;
const emptyXattrs: ReadonlyMap<string, Buffer> = new Map();
/** Shared by all entries without extended headers. */
const nothingPending: Pending = { pax: new Map() };

/** Values from extended headers for the next entry. */
type Pending = { longPath?: string; longLink?: string; readonly pax: PaxValues };
type State = 'header' | 'content' | 'metadata' | 'padding' | 'after-end';

/** After an error the parser must not be used again. */
export class TarParser {
  readonly #sink: TarSink;
  /** A header that arrives in several chunks, or a block with further extents of a sparse file. */
  readonly #header = Buffer.alloc(blockBytes);
  #headerFill = 0;
  readonly #checkSum = createSumCheck();
  #state: State = 'header';
  /** Remaining bytes of the current content, metadata or padding. */
  #left = 0;
  #padding = 0;
  #isInEntry = false;
  #sparse: SparseReader | undefined;
  /** A sparse file in the old GNU format, whose map continues in separate blocks. */
  #unmapped: { readonly found: Found; readonly extents: Extent[] } | undefined;
  #metadata: { readonly type: string; readonly bytes: Buffer; fill: number } | undefined;
  #metadataHeaders = 0;
  #globals: PaxValues = new Map();
  #pending = nothingPending;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** Parses the next bytes. @throws {BerthError} INVALID_ARGUMENT or UNIMPLEMENTED for an unusable archive. @throws errors of the sink. */
  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) at += this.#take(chunk, at);
  }

  /** Must be called after the last byte. @throws {BerthError} INVALID_ARGUMENT if the archive ends in the middle of an entry. */
  end(): void {
    const { pax, longPath } = this.#pending;
    const isBetweenEntries = this.#state === 'header' && this.#headerFill === 0 && pax.size === 0 && longPath === undefined;
    if (this.#state !== 'after-end' && !isBetweenEntries) throw invalidArgument('tar: unexpected end in the middle of an entry');
  }

  /** @returns the number of bytes consumed, at least one. */
  #take(chunk: Buffer, at: number): number {
    if (this.#state === 'header') return this.#takeHeader(chunk, at);
    if (this.#state === 'after-end') return this.#takeTrailing(chunk.subarray(at));
    const used = Math.min(chunk.length - at, this.#left);
    const bytes = chunk.subarray(at, at + used);
    if (this.#state !== 'content' || this.#sparse !== undefined) this.#sink.framing?.(bytes);
    if (this.#state === 'content') (this.#sparse ?? this.#sink).content(bytes);
    if (this.#state === 'metadata') this.#takeMetadata(chunk, at, used);
    this.#left -= used;
    if (this.#left === 0) this.#finishPart();
    return used;
  }

  #takeHeader(chunk: Buffer, at: number): number {
    // Usually the chunk contains the whole block, and no copy is needed.
    if (this.#headerFill === 0 && chunk.length - at >= blockBytes) {
      const block = chunk.subarray(at, at + blockBytes);
      this.#sink.framing?.(block);
      this.#readHeader(block);
      return blockBytes;
    }
    const used = chunk.copy(this.#header, this.#headerFill, at, Math.min(chunk.length, at + blockBytes - this.#headerFill));
    this.#sink.framing?.(this.#header.subarray(this.#headerFill, this.#headerFill + used));
    this.#headerFill += used;
    if (this.#headerFill === blockBytes) {
      this.#headerFill = 0;
      this.#readHeader(this.#header);
    }
    return used;
  }

  #takeTrailing(bytes: Buffer): number {
    // Of any length: BuildKit puts the index of an eStargz layer here, with 400 bytes for each file. The caller limits the whole archive.
    this.#sink.framing?.(bytes);
    return bytes.length;
  }

  #takeMetadata(chunk: Buffer, at: number, used: number): void {
    if (this.#unmapped !== undefined) {
      chunk.copy(this.#header, blockBytes - this.#left, at, at + used);
      return;
    }
    assert(this.#metadata !== undefined);
    chunk.copy(this.#metadata.bytes, this.#metadata.fill, at, at + used);
    this.#metadata.fill += used;
  }

  #begin(state: 'content' | 'metadata', sizeBytes: number): void {
    this.#state = state;
    this.#left = sizeBytes;
    this.#padding = (blockBytes - (sizeBytes % blockBytes)) % blockBytes;
    if (sizeBytes === 0) this.#finishPart();
  }

  #finishPart(): void {
    if (this.#unmapped !== undefined) {
      this.#readExtents();
      return;
    }
    if (this.#state === 'metadata') this.#applyMetadata();
    if (this.#state === 'content' && this.#isInEntry) {
      this.#isInEntry = false;
      this.#sparse?.end();
      this.#sparse = undefined;
      this.#sink.entryEnd();
    }
    const isPadded = this.#state !== 'padding' && this.#padding > 0;
    this.#state = isPadded ? 'padding' : 'header';
    this.#left = isPadded ? this.#padding : 0;
  }

  #readHeader(block: Buffer): void {
    // One block of zeros ends the archive, as in Go's reader: then all readers stop at the same byte.
    if (isZero(block)) {
      const { pax, longPath, longLink } = this.#pending;
      if (longPath !== undefined || longLink !== undefined || pax.size > 0) throw invalidArgument('tar: archive ends after an extended header');
      this.#state = 'after-end';
      return;
    }
    this.#checkSum(block);
    const type = String.fromCharCode(block[156] ?? 0);
    if ('xgLK'.includes(type)) {
      this.#beginMetadata(block, type);
      return;
    }
    const found = toFound(block, type, this.#pending, this.#globals);
    this.#pending = nothingPending;
    this.#metadataHeaders = 0;
    if (type === 'S' && isExtended(block, 'header')) {
      this.#unmapped = { found, extents: [...(found.layout?.extents ?? [])] };
      this.#begin('metadata', blockBytes);
    } else this.#beginEntry(found);
  }

  #beginMetadata(block: Buffer, type: string): void {
    const sizeBytes = parseNumber(block, 124, 12, 'size');
    if (sizeBytes > metadataBytesMax) throw invalidArgument(`tar: extended header of ${sizeBytes} bytes exceeds the limit of ${metadataBytesMax}`);
    this.#metadataHeaders += 1;
    if (this.#metadataHeaders > metadataHeadersMax) throw invalidArgument(`tar: more than ${metadataHeadersMax} extended headers before one entry`);
    this.#metadata = { type, bytes: Buffer.alloc(sizeBytes), fill: 0 };
    this.#begin('metadata', sizeBytes);
  }

  #applyMetadata(): void {
    assert(this.#metadata !== undefined);
    const { type, bytes } = this.#metadata;
    this.#metadata = undefined;
    if (type === 'x') this.#pending = { ...this.#pending, pax: applyPaxRecords(new Map(), bytes) };
    else if (type === 'g') this.#globals = inherited(applyPaxRecords(this.#globals, bytes));
    else if (type === 'L') this.#pending = { ...this.#pending, longPath: untilNul(bytes, 0, bytes.length) };
    else this.#pending = { ...this.#pending, longLink: untilNul(bytes, 0, bytes.length) };
  }

  #beginEntry({ entry, layout, storedBytes }: Found): void {
    this.#isInEntry = true;
    this.#sink.entry(entry);
    if (layout !== undefined) this.#sparse = createSparseReader(layout, storedBytes, this.#sink);
    this.#begin('content', storedBytes);
  }

  /** Reads a block with further extents of a sparse file in the old GNU format. */
  #readExtents(): void {
    assert(this.#unmapped !== undefined);
    const { found, extents } = this.#unmapped;
    extents.push(...oldExtents(this.#header, 'block', (at) => parseNumber(this.#header, at, 12, 'sparse map')));
    checkCount(extents);
    if (isExtended(this.#header, 'block')) this.#begin('metadata', blockBytes);
    else {
      this.#unmapped = undefined;
      this.#beginEntry({ ...found, layout: { sizeBytes: found.entry.sizeBytes, extents } });
    }
  }
}

type Found = { readonly entry: TarEntry; readonly layout: SparseLayout | undefined; readonly storedBytes: number };

function toFound(block: Buffer, type: string, pending: Pending, globals: PaxValues): Found {
  const entry = toEntry(block, type, pending, globals);
  const layout = type === 'S' ? oldLayout(block) : entry.kind === 'file' ? paxLayout(pending.pax) : undefined;
  const found = layout === undefined ? entry : { ...entry, sizeBytes: layout.sizeBytes, isSparse: true };
  return { entry: found, layout, storedBytes: entry.sizeBytes };
}

function oldLayout(block: Buffer): SparseLayout {
  const extents = oldExtents(block, 'header', (at) => parseNumber(block, at, 12, 'sparse map'));
  return { sizeBytes: parseNumber(block, 483, 12, 'size'), extents };
}

function toEntry(block: Buffer, type: string, pending: Pending, globals: PaxValues): TarEntry {
  const value = (key: string): Buffer | undefined => pending.pax.get(key) ?? globals.get(key);
  const text = (key: string): string | undefined => {
    const bytes = value(key);
    return bytes === undefined || bytes.length === 0 ? undefined : bytes.toString('latin1');
  };
  const number = (key: string, at: number, length: number): number => toPaxInteger(text(key), key) ?? parseNumber(block, at, length, key);
  const path = sparseName(pending.pax) ?? text('path') ?? pending.longPath ?? headerPath(block);
  const kind = kindOf(type, path);
  // For types without content the size field is ignored. POSIX specifies it by type.
  const sizeBytes = number('size', 124, 12);
  const isDevice = kind === 'char' || kind === 'block';
  return {
    kind,
    path: checkedText(path, 'path'),
    sizeBytes: kind === 'file' ? sizeBytes : 0,
    isSparse: false,
    mode: parseNumber(block, 100, 8, 'mode') & 0o7777,
    uid: toId(number('uid', 108, 8), 'uid'),
    gid: toId(number('gid', 116, 8), 'gid'),
    mtime: toTime(text('mtime')) ?? { seconds: parseSigned(block, 136, 12, 'mtime'), nanoseconds: 0 },
    linkPath:
      kind === 'symlink' || kind === 'link' ? checkedText(text('linkpath') ?? pending.longLink ?? untilNul(block, 157, 100), 'link target') : '',
    major: isDevice ? parseDeviceNumber(block, 329, 'major') : 0,
    minor: isDevice ? parseDeviceNumber(block, 337, 'minor') : 0,
    xattrs: xattrsOf(pending.pax),
  };
}

function kindOf(type: string, path: string): TarEntryKind {
  if (type === '0' || type === '7' || type === 'S') return 'file';
  // Archives older than ustar have no type for directories: a trailing slash marks them.
  if (type === '\0') return path.endsWith('/') ? 'directory' : 'file';
  const kinds: Readonly<Record<string, TarEntryKind>> = { '1': 'link', '2': 'symlink', '3': 'char', '4': 'block', '5': 'directory', '6': 'fifo' };
  const kind = Object.hasOwn(kinds, type) ? kinds[type] : undefined;
  if (kind !== undefined) return kind;
  throw unimplemented(`tar: entry ${JSON.stringify(path.slice(0, 200))}: unsupported type ${JSON.stringify(type)}`);
}

function xattrsOf(pax: PaxValues): ReadonlyMap<string, Buffer> {
  if (pax.size === 0) return emptyXattrs;
  const prefix = 'SCHILY.xattr.';
  const entries = [...pax].filter(([key]) => key.startsWith(prefix)).map(([key, value]) => [key.slice(prefix.length), value] as const);
  return entries.length === 0 ? emptyXattrs : new Map(entries);
}

/** Returns the name. In ustar archives it may have a prefix, in GNU archives it has none. */
function headerPath(block: Buffer): string {
  const name = untilNul(block, 0, 100);
  if (block[345] === 0 || block.toString('latin1', 257, 263) !== 'ustar\0') return name;
  return `${untilNul(block, 345, 155)}/${name}`;
}

function untilNul(bytes: Buffer, at: number, length: number): string {
  const end = bytes.indexOf(0, at);
  return bytes.toString('latin1', at, end < 0 || end > at + length ? at + length : end);
}

function checkedText(text: string, what: string): string {
  if (text.includes('\0')) throw invalidArgument(`tar: ${what} contains a NUL`);
  return text;
}

function isZero(block: Buffer): boolean {
  if (block[0] !== 0) return false;
  return block.every((byte) => byte === 0);
}

function toPaxInteger(text: string | undefined, key: string): number | undefined {
  if (text === undefined) return undefined;
  const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw invalidArgument(`tar: invalid PAX ${key} ${JSON.stringify(text.slice(0, 40))}`);
  return value;
}

/** An id of chown(2) has 32 bits. All ones mean "do not change". */
function toId(value: number, what: string): number {
  if (value >= 0xffffffff) throw invalidArgument(`tar: ${what} ${value} is not a user or group id`);
  return value;
}

/** Parses seconds with a fraction of any length. Rounds down to nanoseconds, also before the epoch. */
function toTime(text: string | undefined): { seconds: number; nanoseconds: number } | undefined {
  if (text === undefined) return undefined;
  const parts = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
  if (parts === null) throw invalidArgument(`tar: invalid PAX mtime ${JSON.stringify(text.slice(0, 40))}`);
  const seconds = Number(parts[2]);
  const nanoseconds = Number((parts[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (parts[1] === '') return { seconds, nanoseconds };
  return nanoseconds === 0 ? { seconds: 0 - seconds, nanoseconds } : { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}
