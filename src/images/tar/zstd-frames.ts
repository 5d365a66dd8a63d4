/**
 * Splits a zstd stream at the ends of its frames. Node's decompressor accepts only one frame per write, and a layer may have thousands.
 *
 * Pure: reads the lengths of frames and blocks, and decompresses nothing. Source: RFC 8878, sections 3.1.1 and 3.1.2.
 */
import { invalidArgument } from '../../lib/errors.ts';

type Part = 'magic' | 'skip-size' | 'descriptor' | 'frame-header' | 'block-header' | 'block' | 'checksum' | 'skipped';

const frameMagic = 0xfd2fb528;
const skippableMagic = 0x184d2a50;
const partBytes: Readonly<Record<Exclude<Part, 'frame-header' | 'block' | 'skipped'>, number>> = {
  magic: 4,
  'skip-size': 4,
  descriptor: 1,
  'block-header': 3,
  checksum: 4,
};

export class FrameSplitter {
  #part: Part = 'magic';
  /** Remaining bytes of the current part. */
  #left = partBytes.magic;
  /** The value of the current part, if it is a little-endian number. */
  #value = 0;
  /** Bytes that `#value` contains. */
  #fill = 0;
  #isLastBlock = false;
  #hasChecksum = false;

  /** Returns false in the middle of a frame. */
  get isAtEnd(): boolean {
    return this.#part === 'magic' && this.#fill === 0;
  }

  /**
   * Cuts the chunk so that no piece extends beyond the end of a frame or skippable frame.
   *
   * @throws {BerthError} INVALID_ARGUMENT if the bytes are not zstd.
   */
  split(chunk: Buffer): Buffer[] {
    const pieces: Buffer[] = [];
    let start = 0;
    for (let at = 0; at < chunk.length; ) {
      at += this.#isNumber() ? this.#takeByte(chunk[at] ?? 0) : this.#skip(chunk.length - at);
      if (this.#left > 0 || !this.#finish()) continue;
      pieces.push(chunk.subarray(start, at));
      start = at;
    }
    if (start < chunk.length) pieces.push(chunk.subarray(start));
    return pieces;
  }

  #isNumber(): boolean {
    return this.#part !== 'frame-header' && this.#part !== 'block' && this.#part !== 'skipped' && this.#part !== 'checksum';
  }

  /** @returns the number of bytes consumed. */
  #takeByte(byte: number): number {
    this.#value = (this.#value | (byte << (8 * this.#fill))) >>> 0;
    this.#fill += 1;
    this.#left -= 1;
    return 1;
  }

  /** @returns the number of bytes consumed. */
  #skip(availableBytes: number): number {
    const used = Math.min(this.#left, availableBytes);
    this.#left -= used;
    return used;
  }

  /** Begins the part after the current one. @returns true at the end of a frame. */
  #finish(): boolean {
    if (this.#part === 'magic') this.#beginFrame();
    else if (this.#part === 'skip-size') this.#begin('skipped', this.#value);
    else if (this.#part === 'descriptor') this.#beginHeader();
    else if (this.#part === 'frame-header') this.#begin('block-header', partBytes['block-header']);
    else if (this.#part === 'block-header') this.#beginBlock();
    else if (this.#part === 'block' && !this.#isLastBlock) this.#begin('block-header', partBytes['block-header']);
    else if (this.#part === 'block' && this.#hasChecksum) this.#begin('checksum', partBytes.checksum);
    else {
      this.#begin('magic', partBytes.magic);
      return true;
    }
    return this.#left === 0 && this.#finish();
  }

  #beginFrame(): void {
    const isSkippable = this.#value >>> 4 === skippableMagic >>> 4;
    if (!isSkippable && this.#value !== frameMagic) throw invalidArgument('zstd: invalid magic number');
    if (isSkippable) this.#begin('skip-size', partBytes['skip-size']);
    else this.#begin('descriptor', partBytes.descriptor);
  }

  #beginHeader(): void {
    const isSingleSegment = (this.#value & 0x20) !== 0;
    this.#hasChecksum = (this.#value & 0x04) !== 0;
    const dictionaryBytes = [0, 1, 2, 4][this.#value & 3] ?? 0;
    const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][this.#value >> 6] ?? 0;
    this.#begin('frame-header', (isSingleSegment ? 0 : 1) + dictionaryBytes + sizeBytes);
  }

  #beginBlock(): void {
    this.#isLastBlock = (this.#value & 1) !== 0;
    // The size of an RLE block is its decompressed size. It contains one byte.
    this.#begin('block', ((this.#value >> 1) & 3) === 1 ? 1 : this.#value >>> 3);
  }

  #begin(part: Part, bytes: number): void {
    this.#part = part;
    this.#left = bytes;
    this.#value = 0;
    this.#fill = 0;
  }
}
