import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CpuSample, nextSample } from './cpu-rate.ts';

const second = 1_000_000_000n;
const at = (usageNs: bigint, atMs: number, nanoCores: number | null = null): CpuSample => ({ usageNs, atMs, nanoCores });

test('nextSample() has no rate at the first reading', () => {
  assert.deepEqual(nextSample(undefined, second, 5), at(second, 5));
});

test('nextSample() returns nanocores: half a second of CPU in ten seconds is 50 million', () => {
  assert.deepEqual(nextSample(at(second, 0), second + second / 2n, 10_000), at(second + second / 2n, 10_000, 50_000_000));
});

test('nextSample() returns 0 when idle, and more than one core when several are used', () => {
  assert.equal(nextSample(at(second, 0), second, 2_000).nanoCores, 0);
  assert.equal(nextSample(at(0n, 0), 8n * second, 2_000).nanoCores, 4_000_000_000);
});

test('nextSample() keeps sample and rate within a second', () => {
  const before = at(second, 1_000, 7);
  assert.equal(nextSample(before, 2n * second, 1_999), before);
  assert.notEqual(nextSample(before, 2n * second, 2_000), before);
});

test('nextSample() starts over after two minutes, and when the counter went back', () => {
  assert.equal(nextSample(at(second, 0), 2n * second, 120_001).nanoCores, null);
  assert.equal(nextSample(at(second, 0), second - 1n, 10_000).nanoCores, null);
});

test('nextSample() does not lose a small difference between large counters', () => {
  const years = 3_000_000_000n * second;
  assert.equal(nextSample(at(years, 0), years + 10n, 10_000).nanoCores, 1);
});
