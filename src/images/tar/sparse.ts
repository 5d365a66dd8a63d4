/**
 * Reads sparse files in tar archives: the old GNU format and the three PAX formats (0.0, 0.1, 1.0).
 *
 * Pure. Source: GNU tar manual, "Storing Sparse Files" (facts).
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { PaxValues } from './pax.ts';

/** A part of a file with content. Between extents, and after the last one, are holes. */
export type Extent = { readonly offset: number; readonly sizeBytes: number };

export type SparseLayout = {
  /** Of the file, including holes. */
  readonly sizeBytes: number;
  /** Undefined if the map precedes the content. */
  readonly extents: readonly Extent[] | undefined;
};

export type SparseReader = {
  /** Processes stored bytes, in pieces of any size. */
  readonly content: (bytes: Buffer) => void;
  /** Must be called at the end: emits the last hole. */
  readonly end: () => void;
};

export type SparseSink = { readonly content: (bytes: Buffer) => void; readonly hole: (sizeBytes: number) => void };

const extentsMax = 65_536;
const blockBytes = 512;
const noBytes = Buffer.alloc(0);
const prefix = 'GNU.sparse.';

/** Returns the layout in a PAX header; undefined for a file that is not sparse. @throws {BerthError} INVALID_ARGUMENT when it is invalid. */
export function paxLayout(pax: PaxValues): SparseLayout | undefined {
  if (pax.size === 0) return undefined;
  const text = (key: string): string | undefined => pax.get(prefix + key)?.toString('latin1');
  const major = text('major');
  if (major !== undefined && `${major}.${text('minor') ?? ''}` !== '1.0')
    throw invalidArgument(`tar: unsupported sparse format version ${JSON.stringify(major.slice(0, 20))}`);
  if (major !== undefined) return { sizeBytes: toCount(text('realsize')), extents: undefined };
  const size = text('size');
  if (size === undefined) return undefined;
  return {
    sizeBytes: toCount(size),
    extents: toExtents(
      (text('map') ?? '')
        .split(',')
        .filter((part) => part !== '')
        .map(toCount),
    ),
  };
}

/** Returns the real name of a sparse file; undefined if the header contains it. */
export function sparseName(pax: PaxValues): string | undefined {
  return pax.get(`${prefix}name`)?.toString('latin1');
}

/**
 * Passes the content and the holes of a sparse file to the sink.
 *
 * @param storedBytes size in the archive, including the map if it precedes the content.
 * @throws {BerthError} INVALID_ARGUMENT for extents that overlap, are out of order, exceed the file or do not match the stored size; so do the
 *   functions of the reader.
 */
export function createSparseReader(layout: SparseLayout, storedBytes: number, sink: SparseSink): SparseReader {
  const map = createMapReader();
  let extents = layout.extents;
  let position = 0;
  let next = 0;
  if (extents !== undefined) checkExtents(extents, layout.sizeBytes, storedBytes);

  /** @returns the bytes after the map. */
  const readMap = (bytes: Buffer): Buffer => {
    const rest = map.push(bytes);
    if (rest === undefined) return bytes.subarray(bytes.length);
    extents = toExtents(map.numbers.slice(1));
    checkExtents(extents, layout.sizeBytes, storedBytes - map.consumedBytes());
    return rest;
  };

  const holeTo = (offset: number): void => {
    if (offset > position) sink.hole(offset - position);
    position = offset;
  };

  const content = (bytes: Buffer): void => {
    let rest = extents === undefined ? readMap(bytes) : bytes;
    while (rest.length > 0) {
      const extent = extents?.[next];
      if (extent === undefined) throw invalidArgument('tar: sparse file with more data than its map describes');
      if (position < extent.offset) holeTo(extent.offset);
      const length = Math.min(rest.length, extent.offset + extent.sizeBytes - position);
      if (length > 0) sink.content(rest.subarray(0, length));
      position += length;
      rest = rest.subarray(length);
      if (position === extent.offset + extent.sizeBytes) next += 1;
    }
  };

  const end = (): void => {
    if (extents === undefined) throw invalidArgument('tar: sparse file without a map');
    holeTo(layout.sizeBytes);
  };
  return { content, end };
}

/** Reads the map of format 1.0: the number of extents, then their numbers, one per line; padded to a multiple of the block size. */
function createMapReader() {
  const numbers: number[] = [];
  let line = '';
  let consumed = 0;
  const isComplete = (): boolean => numbers.length === 1 + 2 * (numbers[0] ?? 0);

  const endLine = (): void => {
    numbers.push(toCount(line));
    line = '';
    if ((numbers[0] ?? 0) > extentsMax) throw tooMany();
  };

  /** @returns the bytes after the map; undefined while it is incomplete. */
  const push = (bytes: Buffer): Buffer | undefined => {
    for (let at = 0; at < bytes.length; at += 1) {
      if (isComplete() && consumed % blockBytes === 0) return bytes.subarray(at);
      consumed += 1;
      if (isComplete()) continue;
      if (bytes[at] === 0x0a) endLine();
      else line += String.fromCharCode(bytes[at] ?? 0);
      if (line.length > 16) throw invalidMap();
    }
    return isComplete() && consumed % blockBytes === 0 ? noBytes : undefined;
  };
  return { numbers, push, consumedBytes: () => consumed };
}

/** Reads the extents of the old GNU format from a header or an extension block. Skips empty slots. */
export function oldExtents(block: Buffer, where: 'header' | 'block', parse: (at: number) => number): Extent[] {
  const [start, count] = where === 'header' ? [386, 4] : [0, 21];
  const extents = Array.from({ length: count }, (_, index) => start + 24 * index)
    .filter((at) => block[at] !== 0)
    .map((at) => ({ offset: parse(at), sizeBytes: parse(at + 12) }));
  return extents;
}

/** Reports whether an extension block with more extents follows. */
export function isExtended(block: Buffer, where: 'header' | 'block'): boolean {
  return block[where === 'header' ? 482 : 504] !== 0;
}

export function checkCount(extents: readonly Extent[]): void {
  if (extents.length > extentsMax) throw tooMany();
}

function toExtents(numbers: readonly number[]): Extent[] {
  if (numbers.length % 2 !== 0) throw invalidMap();
  const extents: Extent[] = [];
  for (let at = 0; at < numbers.length; at += 2) extents.push({ offset: numbers[at] ?? 0, sizeBytes: numbers[at + 1] ?? 0 });
  checkCount(extents);
  return extents;
}

function checkExtents(extents: readonly Extent[], sizeBytes: number, storedBytes: number): void {
  let end = 0;
  let stored = 0;
  for (const extent of extents) {
    if (extent.offset < end) throw invalidArgument('tar: overlapping extents in a sparse file');
    end = extent.offset + extent.sizeBytes;
    stored += extent.sizeBytes;
  }
  if (end > sizeBytes) throw invalidArgument('tar: extents beyond the end of a sparse file');
  if (stored !== storedBytes) throw invalidArgument(`tar: sparse file with ${storedBytes} bytes of data, but ${stored} in its map`);
}

function toCount(text: string | undefined): number {
  const count = text !== undefined && /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(count)) throw invalidMap();
  return count;
}

function invalidMap(): Error {
  return invalidArgument('tar: invalid map of a sparse file');
}

function tooMany(): Error {
  return invalidArgument(`tar: sparse file with more than ${extentsMax} extents`);
}
