import assert from 'node:assert/strict';
import { test } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { openZstd } from './libzstd.ts';

const zstd = openZstd();
const windowLogMax = 27;
const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
const contents = [Buffer.alloc(3 << 20, 'berth '), Buffer.alloc(0), Buffer.alloc(256 << 10, 1), Buffer.from('x')];
const options = { skip: zstd === undefined ? 'no libzstd.so.1 on this machine' : false };

function decompress(bytes: Buffer, pieceBytes: number): { readonly content: Buffer; readonly isAtEnd: boolean } {
  const decoder = zstd?.openDecoder(windowLogMax);
  assert.ok(decoder);
  const parts: Buffer[] = [];
  try {
    for (let at = 0; at < bytes.length; at += pieceBytes)
      decoder.write(bytes.subarray(at, at + pieceBytes), (output) => parts.push(Buffer.from(output)));
    return { content: Buffer.concat(parts), isAtEnd: decoder.isAtEnd() };
  } finally {
    decoder.close();
  }
}

test('openZstd() decompresses several frames, in pieces of any size', options, () => {
  const archive = Buffer.concat(contents.flatMap((content) => [zstdCompressSync(content), skippable]));
  for (const pieceBytes of [1, 7, 4096, archive.length]) {
    const { content, isAtEnd } = decompress(archive, pieceBytes);
    assert.ok(content.equals(Buffer.concat(contents)), `pieces of ${pieceBytes}`);
    assert.equal(isAtEnd, true);
  }
});

test('isAtEnd() is false within a frame', options, () => {
  const archive = zstdCompressSync(contents[0] ?? '');
  for (const length of [3, 9, archive.length - 1]) assert.equal(decompress(archive.subarray(0, length), 4096).isAtEnd, false);
});

test('openZstd() rejects corrupt frames, other formats and windows above the limit', options, () => {
  const archive = zstdCompressSync(contents[0] ?? '');
  const corrupt = Buffer.from(archive);
  corrupt[8] = 255 - (corrupt[8] ?? 0);
  assert.throws(() => decompress(corrupt, 4096), /^Error: zstd: /);
  assert.throws(() => decompress(Buffer.from('not zstd at all'), 4096), /Unknown frame descriptor/);
  const wide = zstdCompressSync(Buffer.alloc(1 << 20), { params: { [constants.ZSTD_c_windowLog]: 20, [constants.ZSTD_c_contentSizeFlag]: 0 } });
  // The window's exponent is in the upper five bits of the byte after the descriptor: 2^(10 + 31).
  wide[5] = 31 << 3;
  wide[4] = (wide[4] ?? 0) & ~0x20;
  assert.throws(() => decompress(wide, 4096), /too much memory|corrupt/i);
});

test('write() rethrows errors of the sink unchanged', options, () => {
  const decoder = zstd?.openDecoder(windowLogMax);
  const stop = new Error('enough');
  const sink = (): void => {
    throw stop;
  };
  assert.throws(() => decoder?.write(zstdCompressSync(Buffer.from('x')), sink), stop);
  decoder?.close();
  decoder?.close();
});
