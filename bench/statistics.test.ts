import assert from 'node:assert/strict';
import { test } from 'node:test';
import { percentile } from './statistics.ts';

test('percentile() returns the nearest rank', () => {
  const samples = Array.from({ length: 100 }, (_, index) => 100 - index);
  assert.deepEqual([percentile(samples, 50), percentile(samples, 99), percentile(samples, 0), percentile(samples, 100)], [50, 99, 1, 100]);
  assert.equal(percentile([7], 99), 7);
  assert.ok(Number.isNaN(percentile([], 50)));
});
