import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseQuantity } from './quantity.ts';

test('parseQuantity() reads decimal, binary and exponent forms', () => {
  const cases: readonly (readonly [string, bigint])[] = [
    ['0', 0n],
    ['10M', 10_000_000n],
    ['1.5Gi', 1_610_612_736n],
    ['2e6', 2_000_000n],
    ['2E6', 2_000_000n],
    ['1E', 10n ** 18n],
    ['.5k', 500n],
    ['5.k', 5000n],
    ['+1k', 1000n],
    ['-1Ki', -1024n],
    ['9Ei', 9n << 60n],
  ];
  for (const [text, units] of cases) assert.equal(parseQuantity(text), units, text);
});

test('parseQuantity() rounds fractions of a unit up', () => {
  assert.equal(parseQuantity('1m'), 1n);
  assert.equal(parseQuantity('1001m'), 2n);
  assert.equal(parseQuantity('3e-1'), 1n);
});

test('parseQuantity() rejects invalid quantities, and sizes that are expensive to compute', () => {
  for (const text of ['', '.', 'M', '1 M', '1MB', '1KI', '1K', '0x10', '1e', 'ten', '1e31', '1e99999', '9'.repeat(65), '1M\n']) {
    assert.throws(() => parseQuantity(text), { code: 'INVALID_ARGUMENT' }, text);
  }
});
