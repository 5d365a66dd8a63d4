import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hardLimit, parseHardLimit } from './limits.ts';

const text = [
  'Limit                     Soft Limit           Hard Limit           Units     ',
  'Max cpu time              unlimited            unlimited            seconds   ',
  'Max open files            1024                 524288               files     ',
  'Max realtime priority     0                    0                    ',
].join('\n');

test('parseHardLimit() reads the third column, and returns the largest number for unlimited', () => {
  assert.equal(parseHardLimit(text, 'NOFILE'), 524288n);
  assert.equal(parseHardLimit(text, 'CPU'), 2n ** 64n - 1n);
  assert.equal(parseHardLimit(text, 'RTPRIO'), 0n);
});

test('hardLimit() returns the limit of this process', () => assert.ok(hardLimit('NOFILE') > 0n));
