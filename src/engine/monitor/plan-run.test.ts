import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ERRNO } from '../plan/abi.ts';
import type { Op, Plan } from '../plan/plan.ts';
import { formatRun, parseRun, readRun, stampsBytes } from './plan-run.ts';

const op: Op = { call: 'setsid', note: 'start a session' };
const plan: Plan = {
  fds: [],
  parent: [op],
  clone: { namespaces: 0 },
  child: [op, op, { call: 'execve', path: '/bin/sh', note: 'start' }],
  process: { argv: ['sh'], env: [] },
  supervise: { mode: 'exec' },
};

/** Entries are [start in ns, outcome] of: one parent operation, the clone, three child operations, the end. */
function stamps(...entries: readonly (readonly [bigint, bigint])[]): Buffer {
  const bytes = Buffer.alloc(stampsBytes(plan));
  entries.forEach(([began, outcome], index) => {
    bytes.writeBigUInt64LE(began, 16 * index);
    bytes.writeBigInt64LE(outcome, 16 * index + 8);
  });
  return bytes;
}

const skipped = 2n;

test('readRun() measures each operation until the next one, and the last one until the end', () => {
  const { run, times } = readRun(
    plan,
    stamps([1000n, 1n], [3500n, 0n], [100_000n, skipped], [100_100n, BigInt(-ERRNO.ENOENT)], [101_000n, 0n], [900_000n, 0n]),
  );
  assert.deepEqual(run, [
    { us: 2.5, outcome: 'done' },
    { us: 96.5, outcome: 'done' },
    { us: 0.1, outcome: 'skipped' },
    { us: 0.9, outcome: 'ENOENT' },
    { us: 799, outcome: 'unfinished' },
  ]);
  assert.deepEqual(times, { beganNs: 1000, clonedNs: 3500, childNs: 100_000, endedNs: 900_000 });
});

test('readRun() adds the time of operations after the seccomp filter, which have no timestamps, to the one before', () => {
  const { run } = readRun(plan, stamps([1000n, 1n], [2000n, 0n], [3000n, 1n], [0n, 1n], [0n, 0n], [9000n, 0n]));
  assert.deepEqual(run.slice(2), [{ us: 6, outcome: 'done' }, { outcome: 'done' }, { outcome: 'unfinished' }]);
});

test('readRun() ends with the operation that failed, and is empty if none started', () => {
  const failed = readRun(plan, stamps([1000n, 1n], [2000n, 0n], [3000n, 0n], [0n, 0n], [0n, 0n], [7000n, 0n]));
  assert.deepEqual(failed.run.at(-1), { us: 4, outcome: 'unfinished' });
  assert.equal(failed.run.length, 3);
  // Killed before the end was stamped.
  assert.deepEqual(readRun(plan, stamps([1000n, 0n])).run, [{ outcome: 'unfinished' }]);
  assert.deepEqual(readRun(plan, stamps()).run, []);
});

test('parseRun() parses the output of formatRun()', () => {
  const { run } = readRun(plan, stamps([1000n, 1n], [2000n, 0n], [3000n, skipped], [0n, BigInt(-ERRNO.EEXIST)], [0n, 0n], [9000n, 0n]));
  assert.equal(formatRun(run), '1.0 1.0 6.0,skipped ,EEXIST ,unfinished');
  assert.deepEqual(parseRun(formatRun(run)), run);
  assert.deepEqual(parseRun(''), []);
});
