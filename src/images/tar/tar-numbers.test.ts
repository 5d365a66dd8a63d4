import assert from 'node:assert/strict';
import test from 'node:test';
import { createSumCheck } from './tar-numbers.ts';

function header(byte: number, count: number, sum: number): Buffer {
  const block = Buffer.alloc(512).fill(byte, 0, Math.min(count, 148));
  if (count > 148) block.fill(byte, 156, count + 8);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

test('createSumCheck() accepts only the sums of unsigned and of signed bytes', () => {
  const check = createSumCheck();
  check(header(0xff, 504, 504 * 0xff + 256));
  check(header(0xff, 100, 100 * 0xff + 256));
  check(header(0xff, 100, 256 - 100));
  check(header(0x61, 77, 77 * 0x61 + 256));
  assert.throws(() => check(header(0xff, 100, 100 * 0xff + 255)), { code: 'INVALID_ARGUMENT', message: /header checksum mismatch/ });
  assert.throws(() => check(header(0x61, 77, 256 - 77)), { code: 'INVALID_ARGUMENT' });
});
