/**
 * Sparse files in tar archives: where their pieces of content lie, in GNU's old form and in the three of PAX (0.0, 0.1, 1.0).
 *
 * Pure. Source: GNU tar manual, "Storing Sparse Files" (facts).
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { PaxValues } from './pax.ts';

/** A piece of a file that has content; between pieces, and after the last, are holes. */
export type Extent = { readonly offset: number; readonly sizeBytes: number };

export type SparseLayout = {
  /** Of the file, holes included. */
  readonly sizeBytes: number;
  /** Undefined: stands before the content. */
  readonly extents: readonly Extent[] | undefined;
};

export type SparseReader = {
  /** Takes the stored bytes, in pieces of any size. */
  readonly content: (bytes: Buffer) => void;
  /** To be called after the last of them: gives the hole at the end. */
  readonly end: () => void;
};

export type SparseSink = { readonly content: (bytes: Buffer) => void; readonly hole: (sizeBytes: number) => void };

const extentsMax = 65_536;
const blockBytes = 512;
const noBytes = Buffer.alloc(0);
const prefix = 'GNU.sparse.';

/** The layout that a PAX header gives; undefined for a file that is not sparse. @throws {BerthError} INVALID_ARGUMENT for one that cannot be. */
export function paxLayout(pax: PaxValues): SparseLayout | undefined {
  if (pax.size === 0) return undefined;
  const text = (key: string): string | undefined => pax.get(prefix + key)?.toString('latin1');
  const major = text('major');
  if (major !== undefined && `${major}.${text('minor') ?? ''}` !== '1.0')
    throw invalidArgument(`tar: sparse files of version ${JSON.stringify(major.slice(0, 20))}`);
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

/** The name of a sparse file where its header has a made-up one. */
export function sparseName(pax: PaxValues): string | undefined {
  return pax.get(`${prefix}name`)?.toString('latin1');
}

/**
 * Hands on the content of a sparse file piece by piece, and its holes.
 *
 * @param storedBytes of content in the archive, with the map before it where the layout has none.
 * @throws {BerthError} INVALID_ARGUMENT for extents that overlap, go back, reach over the end, or are not what is stored; so do its functions.
 */
export function createSparseReader(layout: SparseLayout, storedBytes: number, sink: SparseSink): SparseReader {
  const map = createMapReader();
  let extents = layout.extents;
  let position = 0;
  let next = 0;
  if (extents !== undefined) checkExtents(extents, layout.sizeBytes, storedBytes);

  /** @returns the bytes after the map. */
  const takeMap = (bytes: Buffer): Buffer => {
    const rest = map.push(bytes);
    if (rest === undefined) return bytes.subarray(bytes.length);
    extents = toExtents(map.numbers.slice(1));
    checkExtents(extents, layout.sizeBytes, storedBytes - map.takenBytes());
    return rest;
  };

  const holeTo = (offset: number): void => {
    if (offset > position) sink.hole(offset - position);
    position = offset;
  };

  const content = (bytes: Buffer): void => {
    let rest = extents === undefined ? takeMap(bytes) : bytes;
    while (rest.length > 0) {
      const extent = extents?.[next];
      if (extent === undefined) throw invalidArgument('tar: a sparse file has more content than its map says');
      if (position < extent.offset) holeTo(extent.offset);
      const length = Math.min(rest.length, extent.offset + extent.sizeBytes - position);
      if (length > 0) sink.content(rest.subarray(0, length));
      position += length;
      rest = rest.subarray(length);
      if (position === extent.offset + extent.sizeBytes) next += 1;
    }
  };

  const end = (): void => {
    if (extents === undefined) throw invalidArgument('tar: a sparse file has no map');
    holeTo(layout.sizeBytes);
  };
  return { content, end };
}

/** The map of version 1.0: numbers of one line each, first how many extents there are; filled up to a whole block. */
function createMapReader() {
  const numbers: number[] = [];
  let line = '';
  let taken = 0;
  const isWhole = (): boolean => numbers.length === 1 + 2 * (numbers[0] ?? 0);

  const endLine = (): void => {
    numbers.push(toCount(line));
    line = '';
    if ((numbers[0] ?? 0) > extentsMax) throw tooMany();
  };

  /** @returns what follows the map; undefined while it goes on. */
  const push = (bytes: Buffer): Buffer | undefined => {
    for (let at = 0; at < bytes.length; at += 1) {
      if (isWhole() && taken % blockBytes === 0) return bytes.subarray(at);
      taken += 1;
      if (isWhole()) continue;
      if (bytes[at] === 0x0a) endLine();
      else line += String.fromCharCode(bytes[at] ?? 0);
      if (line.length > 16) throw invalidArgument('tar: the map of a sparse file is damaged');
    }
    return isWhole() && taken % blockBytes === 0 ? noBytes : undefined;
  };
  return { numbers, push, takenBytes: () => taken };
}

/** Reads old GNU's extents from a header, or from a block that continues it; those of no size say nothing. */
export function oldExtents(block: Buffer, where: 'header' | 'block', parse: (at: number) => number): Extent[] {
  const [start, count] = where === 'header' ? [386, 4] : [0, 21];
  const extents = Array.from({ length: count }, (_, index) => start + 24 * index)
    .filter((at) => block[at] !== 0)
    .map((at) => ({ offset: parse(at), sizeBytes: parse(at + 12) }));
  return extents;
}

/** Whether another block of extents follows the header or block. */
export function goesOn(block: Buffer, where: 'header' | 'block'): boolean {
  return block[where === 'header' ? 482 : 504] !== 0;
}

export function checkCount(extents: readonly Extent[]): void {
  if (extents.length > extentsMax) throw tooMany();
}

function toExtents(numbers: readonly number[]): Extent[] {
  if (numbers.length % 2 !== 0) throw invalidArgument('tar: the map of a sparse file is damaged');
  const extents: Extent[] = [];
  for (let at = 0; at < numbers.length; at += 2) extents.push({ offset: numbers[at] ?? 0, sizeBytes: numbers[at + 1] ?? 0 });
  checkCount(extents);
  return extents;
}

function checkExtents(extents: readonly Extent[], sizeBytes: number, storedBytes: number): void {
  let end = 0;
  let stored = 0;
  for (const extent of extents) {
    if (extent.offset < end) throw invalidArgument('tar: pieces of a sparse file overlap');
    end = extent.offset + extent.sizeBytes;
    stored += extent.sizeBytes;
  }
  if (end > sizeBytes) throw invalidArgument('tar: a sparse file has pieces behind its end');
  if (stored !== storedBytes) throw invalidArgument(`tar: a sparse file has ${storedBytes} bytes of content, and ${stored} in its map`);
}

function toCount(text: string | undefined): number {
  const count = text !== undefined && /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(count)) throw invalidArgument('tar: the map of a sparse file is damaged');
  return count;
}

function tooMany(): Error {
  return invalidArgument(`tar: a sparse file in more than ${extentsMax} pieces`);
}
