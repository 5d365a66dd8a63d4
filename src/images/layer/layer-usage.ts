/**
 * Counts what a layer takes on disk and in memory, and enforces the limits for it.
 */
import { exhausted } from './layer-failure.ts';

export type LayerLimits = {
  readonly entriesMax: number;
  /** Paths of directories and whiteouts. They stay in memory until the end of the layer. */
  readonly pathBytesMax: number;
  /** Holes of all sparse files together. */
  readonly holeBytesMax: number;
};

export const layerLimits: LayerLimits = { entriesMax: 4_000_000, pathBytesMax: 64 << 20, holeBytesMax: 8 * 2 ** 30 };

/** The block size of the usual file systems: the space that a directory takes, and the unit of the space of a file. */
export const blockBytes = 4096;
/** Bytes written between two checks of the free space. */
const spaceCheckBytes = 32 << 20;
/** Space left free for other services of the node on the same disk. */
const spaceReserveBytes = 64 << 20;
/** Estimated memory for a remembered path, besides its characters. */
const pathOverheadBytes = 64;

/** The methods throw BerthError RESOURCE_EXHAUSTED if a limit is exceeded or the disk is full. */
export class LayerUsage {
  readonly #limits: LayerLimits;
  readonly #freeBytes: () => number;
  #entries = 0;
  #pathBytes = 0;
  #holeBytes = 0;
  #uncheckedBytes = 0;
  /** Includes the layer's directory. */
  #sizeBytes = blockBytes;
  #inodes = 1;

  /** @param freeBytes returns the free space of the file system. Called every 32 MiB. */
  constructor(limits: LayerLimits, freeBytes: () => number) {
    this.#limits = limits;
    this.#freeBytes = freeBytes;
  }

  /** Disk space in whole blocks. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get inodes(): number {
    return this.#inodes;
  }

  addEntry(): void {
    this.#entries += 1;
    if (this.#entries > this.#limits.entriesMax) throw exhausted(`has more than ${this.#limits.entriesMax} entries`);
  }

  addInode(sizeBytes: number): void {
    this.#inodes += 1;
    this.#sizeBytes += Math.ceil(sizeBytes / blockBytes) * blockBytes;
  }

  /** Counts a directory or whiteout whose path stays in memory. */
  addPath(path: string): void {
    this.#pathBytes += path.length + pathOverheadBytes;
    if (this.#pathBytes > this.#limits.pathBytesMax) throw exhausted('has too many directories and whiteouts');
  }

  /** Counts a hole of a file that was added with its full size. A hole takes no disk space, but a program that copies or verifies the file reads all of it. */
  addHole(sizeBytes: number): void {
    this.#holeBytes += sizeBytes;
    if (this.#holeBytes > this.#limits.holeBytesMax) throw exhausted(`has sparse files with more than ${this.#limits.holeBytesMax} bytes of holes`);
    this.#sizeBytes -= Math.floor(sizeBytes / blockBytes) * blockBytes;
  }

  /** Checks the free space before bytes are written. */
  checkSpace(sizeBytes: number): void {
    this.#uncheckedBytes += sizeBytes;
    if (this.#uncheckedBytes < spaceCheckBytes) return;
    this.#uncheckedBytes = 0;
    if (this.#freeBytes() - spaceReserveBytes < sizeBytes) throw exhausted('does not fit on the disk');
  }
}
