import assert from 'node:assert/strict';
import { test } from 'node:test';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { BerthError } from '../../lib/errors.ts';
import { FrameSplitter } from './zstd-frames.ts';

const skippable = (length: number): Buffer => {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184d2a53, 0);
  header.writeUInt32LE(length, 4);
  return Buffer.concat([header, Buffer.alloc(length, 7)]);
};
/** Some are large enough for several blocks: incompressible, compressible, empty, one repeated byte. */
const contents = [
  Buffer.from('hello'),
  Buffer.alloc(0),
  Buffer.alloc(400_000, 'z'),
  Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7919) % 251)),
];
const frames = [skippable(5), ...contents.map((content) => zstdCompressSync(content)), skippable(0), zstdCompressSync(Buffer.from('end'))];

test('FrameSplitter splits after every frame, for input in pieces of any size', () => {
  const stream = Buffer.concat(frames);
  for (const pieceBytes of [1, 3, 1000, stream.length]) {
    const splitter = new FrameSplitter();
    const found: Buffer[] = [];
    let current: Buffer[] = [];
    for (let at = 0; at < stream.length; at += pieceBytes) {
      for (const piece of splitter.split(stream.subarray(at, at + pieceBytes))) {
        current.push(piece);
        const frame = Buffer.concat(current);
        if (frame.length !== frames[found.length]?.length) continue;
        found.push(frame);
        current = [];
      }
    }
    assert.deepEqual(found, frames);
    assert.ok(splitter.isAtEnd);
  }
});

test('FrameSplitter handles checksums and unknown sizes', () => {
  // Magic, no size and a window, one raw last block of 3 bytes, then with the checksum flag.
  const plain = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00, 0x19, 0, 0, 1, 2, 3]);
  assert.deepEqual(zstdDecompressSync(plain), Buffer.from([1, 2, 3]));
  const splitter = new FrameSplitter();
  const summed = Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x19, 0, 0, 1, 2, 3]), Buffer.from([9, 9, 9, 9])]);
  assert.deepEqual(splitter.split(Buffer.concat([plain, summed, plain])), [plain, summed, plain]);
});

test('isAtEnd() is false within a frame, and split() refuses data that is not a frame', () => {
  const [frame = Buffer.alloc(0)] = [zstdCompressSync(Buffer.from('hello'))];
  for (let length = 1; length < frame.length; length += 1) {
    const splitter = new FrameSplitter();
    splitter.split(frame.subarray(0, length));
    assert.equal(splitter.isAtEnd, false);
  }
  assert.throws(() => new FrameSplitter().split(Buffer.from('not zstd')), BerthError);
});
