import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32, gunzipSync, gzipSync } from 'node:zlib';
import { gzipHeaderLength } from './gzip-header.ts';

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

test('gzipHeaderLength() returns the length for every combination of fields, and undefined for an incomplete header', () => {
  for (const flag of combinations) {
    const bytes = header(flag);
    assert.equal(gunzipSync(Buffer.concat([bytes, body])).toString(), 'content');
    assert.equal(gzipHeaderLength(Buffer.concat([bytes, body])), bytes.length);
    for (let length = 0; length < bytes.length; length += 1) assert.equal(gzipHeaderLength(bytes.subarray(0, length)), undefined);
  }
});

test('gzipHeaderLength() rejects other methods, reserved flags and wrong header checksums', () => {
  const changed = (flag: number, at: number, value: number) => {
    const bytes = header(flag);
    bytes[at] = value;
    return bytes;
  };
  assert.throws(() => gzipHeaderLength(changed(0, 2, 7)), /unknown compression method/);
  assert.throws(() => gzipHeaderLength(changed(0, 3, 0x20)), /incorrect header/);
  assert.throws(() => gzipHeaderLength(changed(2, 4, 1)), /incorrect checksum of the header/);
});
