import assert from 'node:assert/strict';
import { test } from 'node:test';
import { weightOfShares } from './cpu-weight.ts';

test('weightOfShares() follows the published table', () => {
  const table: readonly (readonly [number, number])[] = [
    [0, 1],
    [2, 1],
    [3, 2],
    [10, 4],
    [102, 17],
    [512, 59],
    [1024, 100],
    [2048, 174],
    [4096, 303],
    [262_143, 10_000],
    [262_144, 10_000],
    [1_000_000, 10_000],
  ];
  for (const [shares, weight] of table) assert.equal(weightOfShares(shares), weight, `${shares} shares`);
});

test('weightOfShares() never decreases and stays within the bounds of cpu.weight', () => {
  let before = 0;
  for (let shares = 0; shares <= 262_144; shares += 61) {
    const weight = weightOfShares(shares);
    assert.ok(weight >= before && weight >= 1 && weight <= 10_000, `${shares} shares`);
    before = weight;
  }
});
