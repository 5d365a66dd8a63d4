/**
 * Parses the numbers in tar headers, octal digits or GNU's base 256, and checks header checksums.
 *
 * Pure, without allocations: each entry of a layer has a dozen numbers. Source: GNU tar manual, "Basic Tar Format" (facts).
 */
import { invalidArgument } from '../../lib/errors.ts';

/** Parses a number of at least 0. */
export function parseNumber(block: Buffer, at: number, length: number, what: string): number {
  const value = parseSigned(block, at, length, what);
  if (value < 0) throw invalidArgument(`tar: ${what} is negative`);
  return value;
}

/** Checks the range: mknod(2) uses 12 and 20 bits, so that a larger number would create another device. Source: include/linux/kdev_t.h. */
export function parseDeviceNumber(block: Buffer, at: number, what: 'major' | 'minor'): number {
  const value = parseNumber(block, at, 8, `${what} number`);
  const max = what === 'major' ? 0xfff : 0xfffff;
  if (value > max) throw invalidArgument(`tar: ${what} number ${value} exceeds the limit of ${max}`);
  return value;
}

/** Parses octal digits, or GNU's base 256: the first bit is set, followed by a big-endian number in two's complement. */
export function parseSigned(block: Buffer, at: number, length: number, what: string): number {
  const lead = block[at] ?? 0;
  if ((lead & 0x80) !== 0) return parseBase256(block.subarray(at, at + length), what);
  const value = parseOctal(block, at, length);
  if (value === undefined) throw invalidArgument(`tar: ${what} ${JSON.stringify(block.toString('latin1', at, at + length))} is not an octal number`);
  return value;
}

/**
 * Parses digits after leading spaces and NULs, up to the next of these. Returns 0 without digits, undefined for other characters. Works byte by
 * byte, without allocations.
 */
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
    throw invalidArgument(`tar: ${what} is a ${isNegative ? 'negative ' : ''}number of more than 53 bits`);
  }
  return Number(value);
}

const blockBytes = 512;
const sumAt = 148;
const sumBytes = 8;

/**
 * Returns a function that checks the checksum of a header and throws INVALID_ARGUMENT on a mismatch. The checksum is the sum of all bytes, with its
 * own eight bytes as spaces. Old versions of tar summed signed bytes. Keeps an aligned copy of the block, to add four bytes at a time.
 */
export function createSumCheck(): (block: Buffer) => void {
  const words = new Uint32Array(blockBytes / 4);
  const bytes = new Uint8Array(words.buffer);
  return (block) => {
    bytes.set(block);
    bytes.fill(32, sumAt, sumAt + sumBytes);
    // Two sums of 256 bytes each in one number: each fits into 16 bits.
    let sums = 0;
    for (let at = 0; at < words.length; at += 1) {
      const word = words[at] ?? 0;
      sums = (sums + (word & 0xff00ff) + ((word >>> 8) & 0xff00ff)) | 0;
    }
    const unsigned = (sums >>> 16) + (sums & 0xffff);
    const sum = parseOctal(block, sumAt, sumBytes);
    if (sum === unsigned) return;
    const negative = 256 * bytes.reduce((count, byte) => count + (byte >>> 7), 0);
    if (sum !== unsigned - negative) throw invalidArgument('tar: not a tar archive, or corrupt: header checksum mismatch');
  };
}
