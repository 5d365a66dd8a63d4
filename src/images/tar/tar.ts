/**
 * Reads a tar archive as its bytes come: old, ustar, GNU and PAX headers, in pieces of any size.
 *
 * Pure: tells a sink what it finds. Paths, targets and attribute names are byte strings (one character a byte); whether they may be used is
 * the sink's business. Sources: POSIX.1-2024 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format" (facts).
 */
import assert from 'node:assert/strict';
import { invalidArgument, unimplemented } from '../../lib/errors.ts';
import { applyPaxRecords, inherited, type PaxValues } from './pax.ts';
import {
  checkCount,
  createSparseReader,
  type Extent,
  goesOn,
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
  /** Bytes of the file, holes included; 0 for all but files. */
  readonly sizeBytes: number;
  /** Its content is stored as a map and pieces. */
  readonly isSparse: boolean;
  /** Permission bits, with set-id and sticky. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: { readonly seconds: number; readonly nanoseconds: number };
  /** Target of a symbolic or hard link. */
  readonly linkPath: string;
  readonly major: number;
  readonly minor: number;
  /** Attribute name -> value. */
  readonly xattrs: ReadonlyMap<string, Buffer>;
};

/** Called in order: entry, its content in pieces (a view that is only good during the call) and holes, end of the entry. */
export type TarSink = {
  /** Told of all other bytes of the archive: headers, padding, what follows the end, and sparse files as they are stored. */
  readonly framing?: (bytes: Buffer) => void;
  readonly entry: (entry: TarEntry) => void;
  readonly content: (bytes: Buffer) => void;
  /** So many bytes of zeros that a sparse file does not store. */
  readonly hole: (sizeBytes: number) => void;
  readonly entryEnd: () => void;
};

export type TarParser = {
  /** @throws {BerthError} INVALID_ARGUMENT or UNIMPLEMENTED for what is no usable tar; whatever the sink throws. The parser is of no use then. */
  readonly push: (chunk: Buffer) => void;
  /** To be called after the last byte. @throws {BerthError} INVALID_ARGUMENT when the archive stops in the middle of an entry. */
  readonly end: () => void;
};

const blockBytes = 512;
/** Long names, PAX and global headers: far above what PATH_MAX and 64 KiB of attribute need. */
const metadataBytesMax = 1 << 20;
/** Extended headers before one entry: one of each type is usual. */
const metadataHeadersMax = 64;
/** What may follow the end of the archive: record padding of the usual sizes. */
const trailingBytesMax = 16 << 20;
const emptyXattrs: ReadonlyMap<string, Buffer> = new Map();
/** Of most entries: nothing comes from extended headers. */
const nothingPending: Pending = { pax: new Map() };

/** Of the headers read so far, what the next entry inherits. */
type Pending = { longPath?: string; longLink?: string; readonly pax: PaxValues };
type State = 'header' | 'content' | 'metadata' | 'padding' | 'after-end';

export function createTarParser(sink: TarSink): TarParser {
  const header = Buffer.alloc(blockBytes);
  const checkSum = createSumCheck();
  const framing = (bytes: Buffer): void => sink.framing?.(bytes);
  let headerFill = 0;
  let state: State = 'header';
  /** Bytes left of the present content, metadata or padding. */
  let left = 0;
  let padding = 0;
  let trailing = 0;
  let isInEntry = false;
  let sparse: SparseReader | undefined;
  /** A sparse file whose old header goes on in blocks of its own. */
  let unmapped: { readonly found: Found; readonly extents: Extent[] } | undefined;
  let metadata: { readonly type: string; readonly bytes: Buffer; fill: number } | undefined;
  let globals: PaxValues = new Map();
  let pending = nothingPending;
  let metadataHeaders = 0;

  const push = (chunk: Buffer): void => {
    for (let at = 0; at < chunk.length; ) at += take(chunk, at);
  };

  /** @returns how many bytes were used; at least one. */
  const take = (chunk: Buffer, at: number): number => {
    if (state === 'header') return takeHeader(chunk, at);
    if (state === 'after-end') return takeTrailing(chunk.subarray(at));
    const used = Math.min(chunk.length - at, left);
    const bytes = chunk.subarray(at, at + used);
    if (state !== 'content' || sparse !== undefined) framing(bytes);
    if (state === 'content') (sparse ?? sink).content(bytes);
    if (state === 'metadata') takeMetadata(chunk, at, used);
    left -= used;
    if (left === 0) finishPart();
    return used;
  };

  const takeHeader = (chunk: Buffer, at: number): number => {
    // The usual case: a whole block, used where it lies.
    if (headerFill === 0 && chunk.length - at >= blockBytes) {
      const block = chunk.subarray(at, at + blockBytes);
      framing(block);
      readHeader(block);
      return blockBytes;
    }
    const used = chunk.copy(header, headerFill, at, Math.min(chunk.length, at + blockBytes - headerFill));
    framing(header.subarray(headerFill, headerFill + used));
    headerFill += used;
    if (headerFill === blockBytes) {
      headerFill = 0;
      readHeader(header);
    }
    return used;
  };

  const takeTrailing = (bytes: Buffer): number => {
    trailing += bytes.length;
    if (trailing > trailingBytesMax) throw invalidArgument(`tar: more than ${trailingBytesMax} bytes after its end`);
    framing(bytes);
    return bytes.length;
  };

  const takeMetadata = (chunk: Buffer, at: number, used: number): void => {
    if (unmapped !== undefined) return void chunk.copy(header, blockBytes - left, at, at + used);
    assert(metadata !== undefined);
    chunk.copy(metadata.bytes, metadata.fill, at, at + used);
    metadata.fill += used;
  };

  const begin = (next: 'content' | 'metadata', sizeBytes: number): void => {
    state = next;
    left = sizeBytes;
    padding = (blockBytes - (sizeBytes % blockBytes)) % blockBytes;
    if (sizeBytes === 0) finishPart();
  };

  const finishPart = (): void => {
    if (unmapped !== undefined) {
      readExtents();
      return;
    }
    if (state === 'metadata') applyMetadata();
    if (state === 'content' && isInEntry) {
      isInEntry = false;
      sparse?.end();
      sparse = undefined;
      sink.entryEnd();
    }
    const isPadded = state !== 'padding' && padding > 0;
    state = isPadded ? 'padding' : 'header';
    left = isPadded ? padding : 0;
  };

  const readHeader = (block: Buffer): void => {
    // Like Go's reader one block of zeros is enough: everybody stops at the same byte.
    if (isZero(block)) {
      if (pending.longPath !== undefined || pending.longLink !== undefined || pending.pax.size > 0)
        throw invalidArgument('tar: ends after an extended header');
      state = 'after-end';
      return;
    }
    checkSum(block);
    const type = String.fromCharCode(block[156] ?? 0);
    if ('xgLK'.includes(type)) {
      const sizeBytes = parseNumber(block, 124, 12, 'size');
      if (sizeBytes > metadataBytesMax)
        throw invalidArgument(`tar: extended header of ${sizeBytes} bytes, more than the ${metadataBytesMax} that are allowed`);
      metadataHeaders += 1;
      if (metadataHeaders > metadataHeadersMax) throw invalidArgument(`tar: more than ${metadataHeadersMax} extended headers before one entry`);
      metadata = { type, bytes: Buffer.alloc(sizeBytes), fill: 0 };
      begin('metadata', sizeBytes);
      return;
    }
    const found = toFound(block, type, pending, globals);
    pending = nothingPending;
    metadataHeaders = 0;
    if (type === 'S' && goesOn(block, 'header')) {
      unmapped = { found, extents: [...(found.layout?.extents ?? [])] };
      begin('metadata', blockBytes);
    } else beginEntry(found);
  };

  const beginEntry = ({ entry, layout, storedBytes }: Found): void => {
    isInEntry = true;
    sink.entry(entry);
    if (layout !== undefined) sparse = createSparseReader(layout, storedBytes, sink);
    begin('content', storedBytes);
  };

  const readExtents = (): void => {
    assert(unmapped !== undefined);
    const { found, extents } = unmapped;
    extents.push(...oldExtents(header, 'block', (at) => parseNumber(header, at, 12, 'sparse map')));
    checkCount(extents);
    if (goesOn(header, 'block')) begin('metadata', blockBytes);
    else {
      unmapped = undefined;
      beginEntry({ ...found, layout: { sizeBytes: found.entry.sizeBytes, extents } });
    }
  };

  const applyMetadata = (): void => {
    assert(metadata !== undefined);
    const { type, bytes } = metadata;
    metadata = undefined;
    if (type === 'x') pending = { ...pending, pax: applyPaxRecords(new Map(), bytes) };
    else if (type === 'g') globals = inherited(applyPaxRecords(globals, bytes));
    else if (type === 'L') pending = { ...pending, longPath: untilNul(bytes, 0, bytes.length) };
    else pending = { ...pending, longLink: untilNul(bytes, 0, bytes.length) };
  };

  const end = (): void => {
    const isBetweenEntries = state === 'header' && headerFill === 0 && pending.pax.size === 0 && pending.longPath === undefined;
    if (state !== 'after-end' && !isBetweenEntries) throw invalidArgument('tar: stops in the middle of an entry');
  };

  return { push, end };
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
  // The types without content have none, whatever the size field says: POSIX leaves it to the type.
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
  // Archives older than ustar have no type for directories.
  if (type === '\0') return path.endsWith('/') ? 'directory' : 'file';
  const kinds: Readonly<Record<string, TarEntryKind>> = { '1': 'link', '2': 'symlink', '3': 'char', '4': 'block', '5': 'directory', '6': 'fifo' };
  const kind = Object.hasOwn(kinds, type) ? kinds[type] : undefined;
  if (kind !== undefined) return kind;
  throw unimplemented(`tar: ${JSON.stringify(path.slice(0, 200))} is of type ${JSON.stringify(type)}, which no image layer should have`);
}

function xattrsOf(pax: PaxValues): ReadonlyMap<string, Buffer> {
  if (pax.size === 0) return emptyXattrs;
  const prefix = 'SCHILY.xattr.';
  const entries = [...pax].filter(([key]) => key.startsWith(prefix)).map(([key, value]) => [key.slice(prefix.length), value] as const);
  return entries.length === 0 ? emptyXattrs : new Map(entries);
}

/** Name with the prefix that ustar has, and GNU has not. */
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
  if (!Number.isSafeInteger(value)) throw invalidArgument(`tar: PAX ${key} ${JSON.stringify(text.slice(0, 40))} is not a number of bytes or an id`);
  return value;
}

/** chown(2) takes 32 bits, of which all ones mean "leave it". */
function toId(value: number, what: string): number {
  if (value >= 0xffffffff) throw invalidArgument(`tar: ${what} ${value} is not a user or group id`);
  return value;
}

/** Seconds with a fraction of any length, of which nanoseconds are kept; rounded down also before the epoch. */
function toTime(text: string | undefined): { seconds: number; nanoseconds: number } | undefined {
  if (text === undefined) return undefined;
  const parts = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
  if (parts === null) throw invalidArgument(`tar: PAX mtime ${JSON.stringify(text.slice(0, 40))} is not a time`);
  const seconds = Number(parts[2]);
  const nanoseconds = Number((parts[3] ?? '').slice(0, 9).padEnd(9, '0'));
  if (parts[1] === '') return { seconds, nanoseconds };
  return nanoseconds === 0 ? { seconds: 0 - seconds, nanoseconds } : { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}
