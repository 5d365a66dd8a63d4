/**
 * Parses the header of a gzip member (RFC 1952). Pure.
 */
import { crc32 } from 'node:zlib';

const fixedBytes = 10;
const flags = { headerCrc: 2, extra: 4, name: 8, comment: 16, reserved: 0xe0 } as const;
const deflate = 8;
/** Fits the largest extra field, and longer names than any tool writes. */
export const gzipHeaderBytesMax = 256 << 10;

/**
 * @param bytes the received part of the member, starting with its magic bytes.
 * @returns the length of the header; undefined if more bytes are needed.
 * @throws Error for another compression method, reserved flags, or a wrong header checksum (FHCRC).
 */
export function gzipHeaderLength(bytes: Buffer): number | undefined {
  if (bytes.length < fixedBytes) return undefined;
  if (bytes[2] !== deflate) throw new Error('gzip: unknown compression method');
  const flag = bytes[3] ?? 0;
  if ((flag & flags.reserved) !== 0) throw new Error('gzip: incorrect header');
  let end: number | undefined = fixedBytes;
  if (flag & flags.extra) end = afterExtra(bytes, end);
  if (flag & flags.name) end = afterText(bytes, end);
  if (flag & flags.comment) end = afterText(bytes, end);
  if (flag & flags.headerCrc) end = afterChecksum(bytes, end);
  return end !== undefined && end <= bytes.length ? end : undefined;
}

function afterExtra(bytes: Buffer, start: number): number | undefined {
  return start + 2 <= bytes.length ? start + 2 + bytes.readUInt16LE(start) : undefined;
}

/** The text ends with a zero byte. */
function afterText(bytes: Buffer, start: number | undefined): number | undefined {
  if (start === undefined || start > bytes.length) return undefined;
  const zero = bytes.indexOf(0, start);
  return zero === -1 ? undefined : zero + 1;
}

/** The low 16 bits of the CRC-32 of all bytes before it. */
function afterChecksum(bytes: Buffer, start: number | undefined): number | undefined {
  if (start === undefined || start + 2 > bytes.length) return undefined;
  if (bytes.readUInt16LE(start) !== (crc32(bytes.subarray(0, start)) & 0xffff)) throw new Error('gzip: incorrect checksum of the header');
  return start + 2;
}
