/**
 * Numbers as tar headers hold them: octal digits, or GNU's base 256; and the sum that says whether a block is a header.
 *
 * Pure, and makes no garbage: a layer has a dozen of them an entry. Source: GNU tar manual, "Basic Tar Format" (facts).
 */
import { invalidArgument } from '../../lib/errors.ts';

/** A number that is not negative. */
export function parseNumber(block: Buffer, at: number, length: number, what: string): number {
  const value = parseSigned(block, at, length, what);
  if (value < 0) throw invalidArgument(`tar: ${what} is negative`);
  return value;
}

/** mknod(2) takes 12 and 20 bits: of more it would make another device. Source: include/linux/kdev_t.h. */
export function parseDeviceNumber(block: Buffer, at: number, what: 'major' | 'minor'): number {
  const value = parseNumber(block, at, 8, `${what} number`);
  const max = what === 'major' ? 0xfff : 0xfffff;
  if (value > max) throw invalidArgument(`tar: ${what} number ${value} is more than the ${max} that Linux has`);
  return value;
}

/** Octal digits, or GNU's base 256: the first bit set, then a big-endian number in two's complement. */
export function parseSigned(block: Buffer, at: number, length: number, what: string): number {
  const lead = block[at] ?? 0;
  if ((lead & 0x80) !== 0) return parseBase256(block.subarray(at, at + length), what);
  const value = parseOctal(block, at, length);
  if (value === undefined) throw invalidArgument(`tar: ${what} ${JSON.stringify(block.toString('latin1', at, at + length))} is not an octal number`);
  return value;
}

/** Digits after any spaces and NULs, up to the next of these; 0 without digits, undefined for anything else. Byte by byte: no garbage. */
function parseOctal(block: Buffer, start: number, length: number): number | undefined {
  const end = start + length;
  const isBlank = (at: number): boolean => block[at] === 32 || block[at] === 0;
  let at = start;
  while (at < end && isBlank(at)) at += 1;
  let value = 0;
  for (; at < end && !isBlank(at); at += 1) {
    const digit = (block[at] ?? 0) - 48;
    if (digit < 0 || digit > 7) return undefined;
    value = value * 8 + digit;
  }
  return value;
}

function parseBase256(field: Buffer, what: string): number {
  const isNegative = ((field[0] ?? 0) & 0x40) !== 0;
  let value = BigInt.asIntN(7, BigInt((field[0] ?? 0) & 0x7f));
  for (const byte of field.subarray(1)) value = (value << 8n) | BigInt(byte);
  if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
    throw invalidArgument(`tar: ${what} is a number of more than 53 bits${isNegative ? ' below zero' : ''}`);
  }
  return Number(value);
}

const blockBytes = 512;
const sumAt = 148;
const sumBytes = 8;

/**
 * @returns what looks at a header's sum, and throws INVALID_ARGUMENT when it is another: that of all bytes, its own eight taken as spaces. Old tars
 * summed the bytes as signed. Holds a copy of the block, aligned, so that bytes are summed four at once.
 */
export function createSumCheck(): (block: Buffer) => void {
  const words = new Uint32Array(blockBytes / 4);
  const bytes = new Uint8Array(words.buffer);
  return (block) => {
    bytes.set(block);
    bytes.fill(32, sumAt, sumAt + sumBytes);
    // Two sums in one number: each of 256 bytes, which fit into 16 bits.
    let sums = 0;
    for (let at = 0; at < words.length; at += 1) {
      const word = words[at] ?? 0;
      sums = (sums + (word & 0xff00ff) + ((word >>> 8) & 0xff00ff)) | 0;
    }
    const unsigned = (sums >>> 16) + (sums & 0xffff);
    const sum = parseOctal(block, sumAt, sumBytes);
    if (sum === unsigned) return;
    const negative = 256 * bytes.reduce((count, byte) => count + (byte >>> 7), 0);
    if (sum !== unsigned - negative) throw invalidArgument('tar: not a tar archive, or damaged (checksum of a header)');
  };
}
