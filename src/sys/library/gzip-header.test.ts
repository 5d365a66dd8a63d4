import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32, gunzipSync, gzipSync } from 'node:zlib';
import { GzipHeader } from './gzip-header.ts';

const body = gzipSync('content').subarray(10);
const optional = { extra: Buffer.from([3, 0, 1, 2, 3]), name: Buffer.from('name\0'), comment: Buffer.from('a comment\0') };

/** Builds a header with the fields of `flag`; the checksum is last. */
function header(flag: number): Buffer {
  const fixed = Buffer.from([0x1f, 0x8b, 8, flag, 0, 0, 0, 0, 0, 3]);
  const parts = [fixed, ...(flag & 4 ? [optional.extra] : []), ...(flag & 8 ? [optional.name] : []), ...(flag & 16 ? [optional.comment] : [])];
  const bytes = Buffer.concat(parts);
  const checksum = Buffer.alloc(2);
  checksum.writeUInt16LE(crc32(bytes) & 0xffff);
  return flag & 2 ? Buffer.concat([bytes, checksum]) : bytes;
}

const combinations = Array.from({ length: 16 }, (_, index) => index << 1);

/** Reads in pieces. @returns the length of the header; undefined: incomplete. */
function lengthOf(bytes: Buffer, pieceBytes: number): number | undefined {
  const reader = new GzipHeader();
  let length = 0;
  for (let at = 0; at < bytes.length && !reader.isComplete; at += pieceBytes) length += reader.read(bytes.subarray(at, at + pieceBytes));
  return reader.isComplete ? length : undefined;
}

test('a header with every combination of fields is read to its end, in pieces of any size', () => {
  for (const flag of combinations) {
    const bytes = header(flag);
    const member = Buffer.concat([bytes, body]);
    assert.equal(gunzipSync(member).toString(), 'content');
    for (let piece = 1; piece <= member.length; piece += 1) assert.equal(lengthOf(member, piece), bytes.length, `flags ${flag}, pieces of ${piece}`);
    for (let length = 0; length < bytes.length; length += 1) assert.equal(lengthOf(bytes.subarray(0, length), 3), undefined);
  }
});

test('an empty extra field and a long name are read', () => {
  const fixed = (flag: number) => Buffer.from([0x1f, 0x8b, 8, flag, 0, 0, 0, 0, 0, 3]);
  assert.equal(lengthOf(Buffer.concat([fixed(4), Buffer.alloc(2), body]), 5), 12);
  assert.equal(lengthOf(Buffer.concat([fixed(8), Buffer.alloc(1 << 20, 'n'), Buffer.alloc(1), body]), 65_536), 10 + (1 << 20) + 1);
});

test('another format or method, reserved flags and a wrong checksum of the header are refused', () => {
  const changed = (flag: number, at: number, value: number) => {
    const bytes = header(flag);
    bytes[at] = value;
    return bytes;
  };
  for (const piece of [1, 4096]) {
    assert.throws(() => lengthOf(changed(0, 1, 7), piece), /not in gzip format/);
    assert.throws(() => lengthOf(changed(0, 2, 7), piece), /unknown compression method/);
    assert.throws(() => lengthOf(changed(0, 3, 0x20), piece), /incorrect header/);
    assert.throws(() => lengthOf(changed(2, 4, 1), piece), /incorrect checksum of the header/);
  }
});
