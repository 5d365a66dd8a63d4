import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cgroupFiles } from '../../../test/support/cgroup-files.ts';
import { detailsV1, detailsV2 } from './cgroup-details.ts';

const [v1, v2] = ([1, 2] as const).map((version) => {
  const text = cgroupFiles(version);
  return (_: string, file: string) => text(file);
}) as [(controller: string, file: string) => string | null, (controller: string, file: string) => string | null];

test('detailsV1() reads every value from its file', () => {
  assert.deepEqual(detailsV1(v1, []), {
    userNs: 663960301n,
    systemNs: 159954261n,
    throttling: { periods: 32, throttledPeriods: 28, throttledNs: 700789404n, burstPeriods: 0, burstNs: 0n },
    memory: {
      cacheBytes: 8736768,
      mappedFileBytes: 770048,
      activeFileBytes: 327680,
      inactiveFileBytes: 8409088,
      kernelBytes: 200704,
      maxUsageBytes: 10190848,
      limitHits: 5,
      ownFaults: { minorOrMajor: 133, major: 1 },
      allFaults: { minorOrMajor: 433, major: 2 },
    },
    oomKills: 2,
    tasksMax: null,
    hugepages: [],
    devices: [
      { major: 8, minor: 0, readBytes: 94208, writeBytes: 8396800, reads: 4, writes: 11 },
      { major: 254, minor: 16, readBytes: 4096, writeBytes: 0, reads: 1, writes: 0 },
    ],
  });
});

test('detailsV2() reads the same values from the files of v2, with times in nanoseconds', () => {
  const faults = { minorOrMajor: 347, major: 1 };
  assert.deepEqual(detailsV2(v2, []), {
    userNs: 490112000n,
    systemNs: 166139000n,
    throttling: { periods: 33, throttledPeriods: 32, throttledNs: 2548556000n, burstPeriods: 0, burstNs: 0n },
    memory: {
      cacheBytes: 8482816,
      mappedFileBytes: 0,
      activeFileBytes: 73728,
      inactiveFileBytes: 8409088,
      kernelBytes: 258048,
      maxUsageBytes: 10473472,
      limitHits: 0,
      ownFaults: faults,
      allFaults: faults,
    },
    oomKills: 0,
    tasksMax: null,
    hugepages: [],
    devices: [{ major: 254, minor: 0, readBytes: 94208, writeBytes: 8396800, reads: 4, writes: 11 }],
  });
});

test('details of a cgroup without files are null or empty, on both versions', () => {
  const nothing = { userNs: null, systemNs: null, throttling: null, memory: null, oomKills: null, tasksMax: null, hugepages: [], devices: [] };
  assert.deepEqual(
    detailsV1(() => null, ['2MB']),
    nothing,
  );
  assert.deepEqual(
    detailsV2(() => null, ['2MB']),
    nothing,
  );
});

test('details list huge pages by size, with the maximum usage if the kernel records it', () => {
  const of = (files: Record<string, string>) => (_: string, file: string) => files[file] ?? null;
  const old = of({ 'hugetlb.2MB.usage_in_bytes': '2097152', 'hugetlb.2MB.max_usage_in_bytes': '4194304' });
  assert.deepEqual(detailsV1(old, ['2MB', '1GB']).hugepages, [{ pageSize: '2MB', usageBytes: 2097152, maxUsageBytes: 4194304 }]);
  assert.deepEqual(detailsV2(of({ 'hugetlb.1GB.current': '0' }), ['2MB', '1GB']).hugepages, [
    { pageSize: '1GB', usageBytes: 0, maxUsageBytes: null },
  ]);
});

test('detailsV2() skips a device without values', () => {
  const read = (_: string, file: string) => (file === 'io.stat' ? '7:0 \n8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6' : null);
  assert.deepEqual(detailsV2(read, []).devices.slice(-1), [{ major: 8, minor: 0, readBytes: 1, writeBytes: 2, reads: 3, writes: 4 }]);
});
