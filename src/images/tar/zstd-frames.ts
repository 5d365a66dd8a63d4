/**
 * Finds where the frames of a zstd stream end: Node's decompressor takes one frame a write, and a layer may have thousands.
 *
 * Pure: reads the lengths of frames and blocks, and decompresses nothing. Source: RFC 8878, sections 3.1.1 and 3.1.2.
 */
import { invalidArgument } from '../../lib/errors.ts';

export type FrameSplitter = {
  /** The chunk cut so that no piece reaches over the end of a frame, or of a skippable frame. */
  readonly split: (chunk: Buffer) => Buffer[];
  /** False in the middle of a frame. */
  readonly isAtEnd: () => boolean;
};

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

/** The splitter's `split` throws BerthError INVALID_ARGUMENT for what is no zstd. */
export function createFrameSplitter(): FrameSplitter {
  let part: Part = 'magic';
  let left = partBytes.magic;
  /** The bytes of the present part that are needed as a number, little end first. */
  let value = 0;
  let fill = 0;
  let isLastBlock = false;
  let hasChecksum = false;

  const begin = (next: Part, bytes: number): void => {
    part = next;
    left = bytes;
    value = 0;
    fill = 0;
  };

  /** @returns true when a frame ended with this part. */
  const finish = (): boolean => {
    if (part === 'magic') beginFrame();
    else if (part === 'skip-size') begin('skipped', value);
    else if (part === 'descriptor') beginHeader();
    else if (part === 'frame-header') begin('block-header', partBytes['block-header']);
    else if (part === 'block-header') beginBlock();
    else if (part === 'block' && !isLastBlock) begin('block-header', partBytes['block-header']);
    else if (part === 'block' && hasChecksum) begin('checksum', partBytes.checksum);
    else {
      begin('magic', partBytes.magic);
      return true;
    }
    return left === 0 && finish();
  };

  const beginFrame = (): void => {
    const isSkippable = value >>> 4 === skippableMagic >>> 4;
    if (!isSkippable && value !== frameMagic) throw invalidArgument('zstd: not a frame, or damaged');
    if (isSkippable) begin('skip-size', partBytes['skip-size']);
    else begin('descriptor', partBytes.descriptor);
  };

  const beginHeader = (): void => {
    const isSingleSegment = (value & 0x20) !== 0;
    hasChecksum = (value & 0x04) !== 0;
    const dictionaryBytes = [0, 1, 2, 4][value & 3] ?? 0;
    const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][value >> 6] ?? 0;
    begin('frame-header', (isSingleSegment ? 0 : 1) + dictionaryBytes + sizeBytes);
  };

  const beginBlock = (): void => {
    isLastBlock = (value & 1) !== 0;
    // A block of one repeated byte says its decompressed size.
    begin('block', ((value >> 1) & 3) === 1 ? 1 : value >>> 3);
  };

  const isNumber = (): boolean => part !== 'frame-header' && part !== 'block' && part !== 'skipped' && part !== 'checksum';

  const split = (chunk: Buffer): Buffer[] => {
    const pieces: Buffer[] = [];
    let start = 0;
    for (let at = 0; at < chunk.length; ) {
      if (isNumber()) {
        value = (value | ((chunk[at] ?? 0) << (8 * fill))) >>> 0;
        fill += 1;
        at += 1;
        left -= 1;
      } else {
        const used = Math.min(left, chunk.length - at);
        at += used;
        left -= used;
      }
      if (left > 0 || !finish()) continue;
      pieces.push(chunk.subarray(start, at));
      start = at;
    }
    if (start < chunk.length) pieces.push(chunk.subarray(start));
    return pieces;
  };

  return { split, isAtEnd: () => part === 'magic' && fill === 0 };
}
