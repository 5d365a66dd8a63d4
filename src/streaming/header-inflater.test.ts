import assert from 'node:assert/strict';
import { test } from 'node:test';
import { constants, createDeflate, type ZlibOptions } from 'node:zlib';
import { HeaderInflater } from './header-inflater.ts';
import { spdyDictionary } from './spdy-dictionary.ts';

const dictionary = spdyDictionary();
const limitBytes = 10_000;
const refusal = { code: 'INVALID_ARGUMENT', message: /^SPDY header block: / };

/** The blocks that a sender flushes, one for each text. */
async function blocksOf(texts: readonly Buffer[], options: ZlibOptions = { dictionary }): Promise<Buffer[]> {
  const deflate = createDeflate(options);
  const parts: Buffer[] = [];
  const blocks: Buffer[] = [];
  deflate.on('data', (part) => parts.push(part));
  for (const text of texts) {
    deflate.write(text);
    await new Promise<void>((resolve) => deflate.flush(constants.Z_SYNC_FLUSH, resolve));
    blocks.push(Buffer.concat(parts.splice(0)));
  }
  return blocks;
}

const headers = (requestId: number, times = 1) => Buffer.from(`streamtype error requestid ${requestId} port 80 `.repeat(times));
const noise = (seed: number) => Buffer.from(Array.from({ length: 2000 }, (_, i) => (seed * 7919 + i * i * 104_729) >> 5));

for (const level of [0, 1, 9]) {
  for (const windowBits of [9, 12, 15]) {
    test(`HeaderInflater reads every block of a stream: level ${level}, window of 2^${windowBits} bytes`, async () => {
      const texts = Array.from({ length: 60 }, (_, i) => (i % 7 === 0 ? noise(i) : headers(i, 1 + (i % 50))));
      for (const options of [
        { level, windowBits, dictionary },
        { level, windowBits },
      ]) {
        const inflater = new HeaderInflater(dictionary, limitBytes);
        for (const [i, block] of (await blocksOf(texts, options)).entries()) assert.deepEqual(inflater.inflate(block), texts[i], `block ${i}`);
      }
    });
  }
}

test('HeaderInflater refuses a block that decompresses to more than its limit', async () => {
  const [small, large] = await blocksOf([Buffer.alloc(4096), Buffer.alloc(1_000_000)]);
  assert.ok(small && large);
  const inflater = new HeaderInflater(dictionary, 4096);
  assert.equal(inflater.inflate(small).length, 4096);
  assert.throws(() => inflater.inflate(large), { code: 'INVALID_ARGUMENT', message: 'SPDY header block: more than 4096 bytes' });
});

test('HeaderInflater refuses a block that is cut off anywhere, lacks its flush marker, or does not end where its stream ends', async () => {
  const [first, second] = await blocksOf([headers(1), headers(2, 20)]);
  assert.ok(first && second);
  const afterFirst = () => {
    const inflater = new HeaderInflater(dictionary, limitBytes);
    inflater.inflate(first);
    return inflater;
  };
  for (let length = 0; length < first.length; length += 1) {
    // 2 bytes of zlib header and 4 of dictionary id.
    if (length !== 6) assert.throws(() => new HeaderInflater(dictionary, limitBytes).inflate(first.subarray(0, length)), refusal, `${length} bytes`);
  }
  for (let length = 1; length < second.length; length += 1) {
    assert.throws(() => afterFirst().inflate(second.subarray(0, length)), refusal, `${length} bytes`);
  }
  const finalBlock = Buffer.from([0x01, 0x00, 0x00, 0xff, 0xff]);
  assert.throws(() => afterFirst().inflate(Buffer.concat([finalBlock, second])), { message: 'SPDY header block: data after the end of the stream' });
});

test('HeaderInflater refuses what is not a zlib stream, and a copy from before its start', () => {
  for (const hex of ['', '78', '7801', '11223344', '780100']) {
    const inflate = () => new HeaderInflater(dictionary, limitBytes).inflate(Buffer.from(hex, 'hex'));
    if (hex === '7801') assert.equal(inflate().length, 0);
    else assert.throws(inflate, refusal, hex);
  }
  // Fixed codes: a copy of 3 bytes from distance 1, without any output before it.
  assert.throws(() => new HeaderInflater(dictionary, limitBytes).inflate(Buffer.from('78010202000000ffff', 'hex')), /distance too far back/);
});
