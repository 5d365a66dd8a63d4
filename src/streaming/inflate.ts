/**
 * Decompresses the header blocks of one SPDY connection: one zlib stream (RFC 1950, 1951) whose history runs on from block to block.
 *
 * Pure, and bounded: a block that would give more than its limit is refused. (node:zlib has no synchronous stream that keeps its history,
 * and an asynchronous one could let later frames overtake a block.)
 */
import { BerthError } from '../lib/errors.ts';

/** How far back a copy may reach (RFC 1951, 2). */
const historyBytesMax = 32_768;

type Codes = { readonly counts: Uint16Array; readonly symbols: Uint16Array };

const lengthBases = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const lengthExtraBits = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const distanceBases = [
  1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];
const distanceExtraBits = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
/** The order in which the lengths of the code-length codes come (RFC 1951, 3.2.7). */
const lengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** One per connection and direction. */
export class Inflater {
  readonly #dictionary: Buffer;
  readonly #outputBytesMax: number;
  /** History, then what the current block gives. */
  readonly #window: Buffer;
  #used = 0;
  #start = 0;
  #input: Buffer = Buffer.alloc(0);
  #at = 0;
  #bits = 0;
  #bitCount = 0;
  #hasBegun = false;

  /** @param outputBytesMax bytes that one block may give. */
  constructor(dictionary: Buffer, outputBytesMax: number) {
    this.#dictionary = dictionary;
    this.#outputBytesMax = outputBytesMax;
    this.#window = Buffer.alloc(historyBytesMax + outputBytesMax);
  }

  /**
   * @param block what the sender flushed: whole blocks of deflate that end at a byte.
   * @throws {BerthError} INVALID_ARGUMENT when it is none, or gives too much. Nothing can be decompressed after that.
   */
  inflate(block: Buffer): Buffer {
    this.#input = block;
    this.#at = 0;
    this.#slide();
    if (!this.#hasBegun) this.#begin();
    while (this.#at < this.#input.length) this.#deflateBlock();
    this.#input = Buffer.alloc(0);
    return Buffer.from(this.#window.subarray(this.#start, this.#used));
  }

  #slide(): void {
    const surplus = this.#used - historyBytesMax;
    if (surplus > 0) {
      this.#window.copyWithin(0, surplus, this.#used);
      this.#used = historyBytesMax;
    }
    this.#start = this.#used;
  }

  #begin(): void {
    const method = this.#bitsOf(8);
    const flags = this.#bitsOf(8);
    if ((method & 15) !== 8 || ((method << 8) | flags) % 31 !== 0) throw broken('not a zlib stream');
    this.#hasBegun = true;
    if ((flags & 0x20) === 0) return;
    for (let i = 0; i < 4; i += 1) this.#bitsOf(8);
    this.#dictionary.copy(this.#window, this.#used);
    this.#used += this.#dictionary.length;
    this.#start = this.#used;
  }

  #deflateBlock(): void {
    if (this.#bitsOf(1) === 1) throw broken('the stream ends');
    const type = this.#bitsOf(2);
    if (type === 0) this.#stored();
    else if (type === 1) this.#compressed(codesOf(fixedLengths()), codesOf(new Uint8Array(30).fill(5)));
    else if (type === 2) this.#dynamic();
    else throw broken('unknown kind of block');
  }

  #stored(): void {
    this.#bits = 0;
    this.#bitCount = 0;
    const length = this.#bitsOf(8) | (this.#bitsOf(8) << 8);
    const complement = this.#bitsOf(8) | (this.#bitsOf(8) << 8);
    if ((length ^ complement) !== 0xffff) throw broken('a stored block with a wrong length');
    if (this.#at + length > this.#input.length) throw broken('a block is cut off');
    for (let i = 0; i < length; i += 1) this.#put(this.#input[this.#at + i] ?? 0);
    this.#at += length;
  }

  #dynamic(): void {
    const literals = this.#bitsOf(5) + 257;
    const distances = this.#bitsOf(5) + 1;
    const codeLengths = this.#bitsOf(4) + 4;
    if (literals > 286 || distances > 30) throw broken('too many codes');
    const ofLengths = new Uint8Array(19);
    for (const index of lengthOrder.slice(0, codeLengths)) ofLengths[index] = this.#bitsOf(3);
    const lengths = this.#codeLengths(codesOf(ofLengths), literals + distances);
    this.#compressed(codesOf(lengths.subarray(0, literals)), codesOf(lengths.subarray(literals)));
  }

  #codeLengths(codes: Codes, count: number): Uint8Array {
    const lengths = new Uint8Array(count);
    for (let i = 0; i < count; ) {
      const symbol = this.#symbol(codes);
      if (symbol < 16) {
        lengths[i] = symbol;
        i += 1;
        continue;
      }
      if (symbol === 16 && i === 0) throw broken('a repetition of nothing');
      const value = symbol === 16 ? (lengths[i - 1] ?? 0) : 0;
      const times = symbol === 16 ? 3 + this.#bitsOf(2) : symbol === 17 ? 3 + this.#bitsOf(3) : 11 + this.#bitsOf(7);
      if (i + times > count) throw broken('too many code lengths');
      lengths.fill(value, i, i + times);
      i += times;
    }
    return lengths;
  }

  #compressed(literals: Codes, distances: Codes): void {
    for (;;) {
      const symbol = this.#symbol(literals);
      if (symbol < 256) this.#put(symbol);
      else if (symbol === 256) return;
      else this.#copy(this.#valueOf(symbol - 257, lengthBases, lengthExtraBits), distances);
    }
  }

  #copy(length: number, distances: Codes): void {
    const distance = this.#valueOf(this.#symbol(distances), distanceBases, distanceExtraBits);
    if (distance > this.#used) throw broken('a copy from before the beginning');
    for (let i = 0; i < length; i += 1) this.#put(this.#window[this.#used - distance] ?? 0);
  }

  #valueOf(index: number, bases: readonly number[], extraBits: readonly number[]): number {
    const base = bases[index];
    if (base === undefined) throw broken('unknown code');
    return base + this.#bitsOf(extraBits[index] ?? 0);
  }

  #put(byte: number): void {
    if (this.#used - this.#start >= this.#outputBytesMax) throw broken(`more than ${this.#outputBytesMax} bytes`);
    this.#window[this.#used] = byte;
    this.#used += 1;
  }

  #bitsOf(count: number): number {
    while (this.#bitCount < count) {
      if (this.#at >= this.#input.length) throw broken('a block is cut off');
      this.#bits |= (this.#input[this.#at] ?? 0) << this.#bitCount;
      this.#at += 1;
      this.#bitCount += 8;
    }
    const value = this.#bits & ((1 << count) - 1);
    this.#bits >>>= count;
    this.#bitCount -= count;
    return value;
  }

  /** Canonical Huffman decoding, one bit at a time: header blocks are short. */
  #symbol({ counts, symbols }: Codes): number {
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= 15; length += 1) {
      code |= this.#bitsOf(1);
      const count = counts[length] ?? 0;
      if (code - count < first) return symbols[index + code - first] ?? 0;
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw broken('unknown code');
  }
}

function codesOf(lengths: Uint8Array): Codes {
  const counts = new Uint16Array(16);
  for (const length of lengths) counts[length] = (counts[length] ?? 0) + 1;
  counts[0] = 0;
  const offsets = new Uint16Array(17);
  let left = 1;
  for (let length = 1; length <= 15; length += 1) {
    left = left * 2 - (counts[length] ?? 0);
    if (left < 0) throw broken('more codes than fit');
    offsets[length + 1] = (offsets[length] ?? 0) + (counts[length] ?? 0);
  }
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => {
    if (length === 0) return;
    symbols[offsets[length] ?? 0] = symbol;
    offsets[length] = (offsets[length] ?? 0) + 1;
  });
  return { counts, symbols };
}

function fixedLengths(): Uint8Array {
  return new Uint8Array(288).fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280);
}

const broken = (reason: string) => new BerthError('INVALID_ARGUMENT', `SPDY header block: ${reason}`);
