import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cgroupFiles } from '../../../test/support/cgroup-files.ts';
import {
  addUp,
  type CgroupCounters,
  cpuUsageV2,
  limitOf,
  parseMemoryV1,
  parseMemoryV2,
  parsePressure,
  parseSwapV1,
  parseSwapV2,
} from './cgroup-counters.ts';

const v1 = cgroupFiles(1);
const v2 = cgroupFiles(2);
const memoryV1 = parseMemoryV1(v1('memory.usage_in_bytes'), v1('memory.stat'), v1('memory.limit_in_bytes'));

test('parseMemoryV1() includes descendants, and excludes inactive files from the working set', () => {
  assert.deepEqual(memoryV1, {
    usageBytes: 10248192,
    workingSetBytes: 10248192 - 8409088,
    rssBytes: 1310720,
    pageFaults: 433,
    majorPageFaults: 2,
    limitBytes: 67108864,
  });
});

test('parseMemoryV2() reads the same values from the files of v2', () => {
  assert.deepEqual(parseMemoryV2(v2('memory.current'), v2('memory.stat'), v2('memory.max')), {
    usageBytes: 8978432,
    workingSetBytes: 8978432 - 8409088,
    rssBytes: 0,
    pageFaults: 347,
    majorPageFaults: 1,
    limitBytes: 67108864,
  });
});

test('the working set is never below 0, although usage and statistics are read at different times', () => {
  assert.equal(parseMemoryV1('4096', 'total_inactive_file 8192', null)?.workingSetBytes, 0);
  assert.equal(parseMemoryV2('4096', 'inactive_file 8192', 'max')?.workingSetBytes, 0);
});

test('a value is found by its whole name, at the beginning or end of the file', () => {
  const at = (stat: string) => parseMemoryV2('10', stat, null)?.rssBytes;
  assert.deepEqual(['anon 1', 'file 2\nanon 3', 'anon 4\nfile 5', 'anon_thp 6\nxanon 7\nanon 8\n', 'anon_thp 9', ''].map(at), [1, 3, 4, 8, 0, 0]);
});

test('memory counters are null if the files are missing', () => {
  assert.deepEqual([parseMemoryV1(null, 'a 1', '1'), parseMemoryV1('1', null, '1'), parseMemoryV2(null, null, null)], [null, null, null]);
});

test('parseSwapV1() subtracts memory from the sum of memory and swap', () => {
  assert.deepEqual(parseSwapV1(v1('memory.memsw.usage_in_bytes'), v1('memory.memsw.limit_in_bytes'), memoryV1), {
    usageBytes: 11296768 - 10248192,
    limitBytes: 67108864,
  });
  assert.deepEqual(parseSwapV1('4096', '9223372036854771712', memoryV1), { usageBytes: 0, limitBytes: null });
  assert.equal(parseSwapV1(null, null, memoryV1), null);
});

test('parseSwapV2() reads swap without memory', () => {
  assert.deepEqual(parseSwapV2(v2('memory.swap.current'), v2('memory.swap.max')), { usageBytes: 0, limitBytes: null });
  assert.deepEqual(parseSwapV2('4096', '8192'), { usageBytes: 4096, limitBytes: 8192 });
  assert.equal(parseSwapV2(null, null), null);
});

test('limitOf() returns null for every form of no limit', () => {
  assert.deepEqual(['max', 'max\n', '9223372036854771712', null].map(limitOf), [null, null, null, null]);
  assert.deepEqual(['0', '67108864', String(2 ** 62 - 2 ** 10)].map(limitOf), [0, 67108864, 2 ** 62 - 2 ** 10]);
});

test('cpuUsageV2() converts microseconds to nanoseconds, exactly for large numbers', () => {
  assert.equal(cpuUsageV2(v2('cpu.stat')), 656252000n);
  assert.equal(cpuUsageV2('usage_usec 9007199254740993\nuser_usec 1'), 9007199254740993000n);
  assert.deepEqual([cpuUsageV2(null), cpuUsageV2('user_usec 1')], [null, null]);
});

test('parsePressure() converts microseconds to nanoseconds, and keeps the averages', () => {
  assert.deepEqual(parsePressure(v1('cpu.pressure')), {
    some: { totalNs: 534455796000n, avg10: 12.04, avg60: 21.41, avg300: 19.01 },
    full: { totalNs: 3286000n, avg10: 1.5, avg60: 0, avg300: 0 },
  });
});

test('parsePressure() returns zeros for a missing full line, and null for an empty text', () => {
  assert.equal(parsePressure('some avg10=0.00 avg60=0.00 avg300=0.00 total=7')?.full.totalNs, 0n);
  assert.deepEqual([parsePressure(null), parsePressure('')], [null, null]);
});

test('addUp() sums usage, and returns no limit and no pressure', () => {
  const part = (usageBytes: number): CgroupCounters => ({
    cpuUsageNs: 5n,
    memory: { usageBytes, workingSetBytes: 1, rssBytes: 2, pageFaults: 3, majorPageFaults: 4, limitBytes: 100 },
    swap: null,
    tasks: 2,
    pressure: { cpu: parsePressure(v1('cpu.pressure')), memory: null, io: null },
  });
  assert.deepEqual(addUp([part(10), part(20)]), {
    cpuUsageNs: 10n,
    memory: { usageBytes: 30, workingSetBytes: 2, rssBytes: 4, pageFaults: 6, majorPageFaults: 8, limitBytes: null },
    swap: null,
    tasks: 4,
    pressure: { cpu: null, memory: null, io: null },
  });
});
