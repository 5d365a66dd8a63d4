import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AttachFrame, createFrameReader } from './attach-frames.ts';

function frame(kind: number, bytes: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32LE((kind << 24) | bytes.length);
  return Buffer.concat([head, bytes]);
}

const lost = Buffer.alloc(8);
lost.writeBigUInt64LE(70_000n);
const stream = Buffer.concat([
  frame(1, Buffer.from('out')),
  frame(2, Buffer.from('err')),
  frame(3, lost),
  frame(1, Buffer.alloc(65536, 'x')),
  frame(4, Buffer.alloc(0)),
]);

/** Joins adjacent pieces of one stream: a frame may arrive in pieces. */
function joined(frames: readonly AttachFrame[]): string[] {
  const texts: string[] = [];
  let last = '';
  for (const each of frames) {
    if (each.kind === 'lost') texts.push(`lost ${each.count}`);
    else if (each.kind === 'end') texts.push('end');
    else if (last === each.kind) texts.push(`${texts.pop()}${each.bytes}`);
    else texts.push(`${each.kind} ${each.bytes}`);
    last = each.kind;
  }
  return texts;
}

const expected = ['stdout out', 'stderr err', 'lost 70000', `stdout ${'x'.repeat(65536)}`, 'end'];

test('createFrameReader() returns the same frames for chunks of any size', () => {
  assert.deepEqual(joined(createFrameReader()(stream)), expected);
  for (let size = 1; size < 40; size++) {
    const read = createFrameReader();
    const frames = [];
    for (let at = 0; at < stream.length; at += size) frames.push(...read(stream.subarray(at, at + size)));
    assert.deepEqual(joined(frames), expected, `chunks of ${size} bytes`);
  }
});

test('createFrameReader() rejects invalid frames', () => {
  for (const bytes of [
    frame(0, Buffer.from('x')),
    frame(4, Buffer.from('x')),
    frame(5, Buffer.alloc(0)),
    frame(1, Buffer.alloc(0)),
    frame(1, Buffer.alloc(65537)),
    frame(3, Buffer.alloc(4)),
  ]) {
    assert.throws(() => createFrameReader()(bytes), { code: 'INTERNAL' });
  }
});
