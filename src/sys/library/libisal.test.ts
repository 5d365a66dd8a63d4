import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32, gunzipSync, gzipSync } from 'node:zlib';
import { createRandom } from '../../../test/support/mutate.ts';
import { openIsal } from './libisal.ts';

const isal = openIsal();
const options = { skip: isal === undefined ? 'no libisal.so.2 on this machine' : false };
const contents = [Buffer.alloc(3 << 20, 'berth '), Buffer.alloc(0), Buffer.alloc(256 << 10, 1), Buffer.from('x')];

function decompress(bytes: Buffer, pieceBytes: number): { readonly content: Buffer; readonly isAtEnd: boolean } {
  const decoder = isal?.openGzipDecoder();
  assert.ok(decoder);
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes)
    decoder.write(bytes.subarray(at, at + pieceBytes), (output) => parts.push(Buffer.from(output)));
  decoder.close();
  return { content: Buffer.concat(parts), isAtEnd: decoder.isAtEnd() };
}

test('openIsal() decompresses members one after the other, and zeros after them, in pieces of any size', options, () => {
  const archive = Buffer.concat([...contents.map((content) => gzipSync(content)), Buffer.alloc(700)]);
  for (const pieceBytes of [1, 7, 4096, archive.length]) {
    const { content, isAtEnd } = decompress(archive, pieceBytes);
    assert.ok(content.equals(Buffer.concat(contents)), `pieces of ${pieceBytes}`);
    assert.equal(isAtEnd, true);
  }
});

test('openIsal() reads headers with a name, a comment, extra fields and a checksum of their own, in pieces of any size', options, () => {
  const plain = gzipSync('content');
  const head = Buffer.from([0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 0, 0, 0, 0, 0, 3, 3, 0, 1, 2, 3, ...Buffer.from('name\0a comment\0')]);
  const checksum = crc32(head) & 0xffff;
  const archive = Buffer.concat([head, Buffer.from([checksum & 0xff, checksum >> 8]), plain.subarray(10)]);
  assert.equal(gunzipSync(archive).toString(), 'content');
  for (let pieceBytes = 1; pieceBytes <= archive.length; pieceBytes += 1) {
    assert.deepEqual([decompress(archive, pieceBytes).content.toString(), decompress(archive, pieceBytes).isAtEnd], ['content', true]);
  }
});

test('openIsal() is not at the end in the middle of a member', options, () => {
  const archive = Buffer.concat([gzipSync(contents[0] ?? ''), gzipSync('y')]);
  for (const length of [3, 9, archive.length - 1]) assert.equal(decompress(archive.subarray(0, length), 4096).isAtEnd, false);
});

test('openIsal() refuses damaged members, wrong checksums, garbage behind them and other formats', options, () => {
  const archive = gzipSync(contents[0] ?? '');
  const wrongSum = Buffer.from(archive);
  wrongSum[archive.length - 8] = 255 - (archive[archive.length - 8] ?? 0);
  assert.throws(() => decompress(wrongSum, 4096), /^Error: gzip: incorrect checksum/);
  assert.throws(() => decompress(Buffer.concat([archive, Buffer.from('more')]), 4096), /garbage after a member/);
  assert.throws(() => decompress(Buffer.from('not gzip at all'), 4096), /not of this format/);
});

test('openIsal() takes and refuses the same damaged bytes as zlib', options, () => {
  const random = createRandom(7);
  const text = Buffer.from(Array.from({ length: 20_000 }, () => 97 + Math.floor(random() ** 3 * 26)));
  const archive = Buffer.concat([gzipSync(text), gzipSync(text, { level: 1 })]);
  let refused = 0;
  for (let round = 0; round < 300; round += 1) {
    const damaged = Buffer.from(archive);
    for (let change = 0; change <= round % 3; change += 1) damaged[Math.floor(random() * damaged.length)] = Math.floor(random() * 256);
    const expected = outcome(() => gunzipSync(damaged));
    const found = outcome(() => {
      const { content, isAtEnd } = decompress(damaged, 1 + Math.floor(random() * 5000));
      if (!isAtEnd) throw new Error('stops in the middle');
      return content;
    });
    assert.equal(found, expected, `round ${round}`);
    if (expected === 'refused') refused += 1;
  }
  assert.ok(refused > 100);
});

function outcome(decode: () => Buffer): string {
  try {
    return `crc ${crc32(decode())}`;
  } catch {
    return 'refused';
  }
}

test("crc32() is zlib's", options, () => {
  for (const content of contents) assert.equal(isal?.crc32(content.subarray(2), crc32(content.subarray(0, 2))), crc32(content));
});

test('what the sink throws ends the decompression as it is', options, () => {
  const decoder = isal?.openGzipDecoder();
  const stop = new Error('enough');
  const sink = (): void => {
    throw stop;
  };
  assert.throws(() => decoder?.write(gzipSync(Buffer.from('x')), sink), stop);
});
