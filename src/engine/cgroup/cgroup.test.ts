import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { containerCgroupPath, mergeResources, planCgroup, planCgroupUpdate } from './cgroup.ts';

const common = { hasSwapAccounting: true, hugepageSizes: ['2MB'] };
const v1: CgroupFacts = {
  ...common,
  version: 1,
  controllers: new Set(['cpu', 'cpuset', 'memory', 'pids', 'hugetlb']),
  mounts: new Map(),
  unifiedRoot: null,
};
const v2: CgroupFacts = {
  ...common,
  version: 2,
  controllers: new Set(['cpu', 'cpuset', 'memory', 'pids', 'hugetlb', 'io']),
  root: '/cg',
  hasNsDelegate: false,
};
const without = (facts: CgroupFacts, controller: string): CgroupFacts => ({
  ...facts,
  controllers: new Set([...facts.controllers].filter((each) => each !== controller)),
});
const text = (writes: readonly CgroupWrite[]): string[] => writes.map((write) => `${write.file}=${write.value}`);
const refusal = (code: string, message: RegExp) => (error: unknown) =>
  error instanceof BerthError && error.code === code && message.test(error.message);

const MiB = 1024 * 1024;

test('containerCgroupPath() joins parent and id and normalizes slashes', () => {
  assert.equal(containerCgroupPath('/kubepods/burstable/pod1', 'c1', '/berth'), '/kubepods/burstable/pod1/c1');
  assert.equal(containerCgroupPath('kubepods//pod1/', 'c1', '/berth'), '/kubepods/pod1/c1');
  assert.equal(containerCgroupPath('', 'c1', '/berth'), '/berth/c1');
  assert.equal(containerCgroupPath('/', 'c1', '/berth'), '/c1');
  assert.equal(containerCgroupPath(`/${'x'.repeat(255)}`, 'c1', '/berth'), `/${'x'.repeat(255)}/c1`);
});

test('containerCgroupPath() rejects parents that leave the hierarchy', () => {
  for (const parent of ['/a/../b', '..', '/./a', '/a\0b', '/a\nb', `/${'x'.repeat(256)}`]) {
    assert.throws(() => containerCgroupPath(parent, 'c1', '/berth'), refusal('INVALID_ARGUMENT', /invalid cgroup parent .*: invalid name/), parent);
  }
});

test('containerCgroupPath() rejects a systemd slice and names the setting', () => {
  const parent = '/kubepods.slice/kubepods-pod1.slice';
  assert.throws(() => containerCgroupPath(parent, 'c1', '/berth'), refusal('INVALID_ARGUMENT', /systemd slice.*cgroupDriver/));
  assert.equal(containerCgroupPath('/system.slice/berth', 'c1', '/berth'), '/system.slice/berth/c1');
});

test('planCgroup() writes every value on v1', () => {
  const resources = {
    cpuShares: 512,
    cpuPeriodUs: 50_000,
    cpuQuotaUs: 20_000,
    cpusetCpus: '0-1',
    cpusetMems: '0',
    memoryLimitBytes: 64 * MiB,
    hugepageLimits: [{ pageSize: '2MB', limitBytes: 4 * MiB }],
  };
  assert.deepEqual(text(planCgroup(resources, v1)), [
    'cpu.shares=512',
    'cpu.cfs_period_us=50000',
    'cpu.cfs_quota_us=20000',
    'cpuset.cpus=0-1',
    'cpuset.mems=0',
    'memory.limit_in_bytes=67108864',
    'memory.memsw.limit_in_bytes=67108864',
    'hugetlb.2MB.limit_in_bytes=4194304',
    'hugetlb.2MB.rsvd.limit_in_bytes=4194304',
  ]);
});

test('planCgroup() writes every value on v2, unified ones last', () => {
  const resources = {
    unified: { 'memory.high': '1000', 'io.max': '8:0 rbps=1\n8:16 rbps=2\n', 'cgroup.max.depth': '3' },
    cpuShares: 512,
    cpuQuotaUs: 20_000,
    cpusetCpus: '0-1',
    memoryLimitBytes: 64 * MiB,
    memorySwapLimitBytes: 96 * MiB,
    hugepageLimits: [{ pageSize: '2MB', limitBytes: 0 }],
  };
  assert.deepEqual(text(planCgroup(resources, v2)), [
    'cpu.weight=59',
    'cpu.max=20000 100000',
    'cpuset.cpus=0-1',
    'memory.swap.max=33554432',
    'memory.max=67108864',
    'hugetlb.2MB.max=0',
    'hugetlb.2MB.rsvd.max=0',
    'memory.high=1000',
    'io.max=8:0 rbps=1',
    'io.max=8:16 rbps=2',
    'cgroup.max.depth=3',
  ]);
});

test('planCgroup() writes nothing for empty resources', () => {
  for (const facts of [v1, v2]) assert.deepEqual(planCgroup({ cpuShares: 0, cpusetCpus: '', cpusetMems: '' }, facts), []);
});

test('planCgroup() converts -1 to unlimited', () => {
  const unlimited = { memoryLimitBytes: -1, cpuQuotaUs: -1 };
  assert.deepEqual(text(planCgroup(unlimited, v2)), ['cpu.max=max 100000', 'memory.swap.max=max', 'memory.max=max']);
  const onV1 = ['cpu.cfs_quota_us=-1', 'cpu.cfs_period_us=100000', 'memory.limit_in_bytes=-1', 'memory.memsw.limit_in_bytes=-1'];
  assert.deepEqual(text(planCgroup(unlimited, v1)), onV1);
  assert.deepEqual(text(planCgroup({ memoryLimitBytes: MiB, memorySwapLimitBytes: -1 }, v2)), ['memory.swap.max=max', 'memory.max=1048576']);
});

test('planCgroup() allows no swap by default, and limits none if the kernel has no swap accounting', () => {
  assert.deepEqual(text(planCgroup({ memoryLimitBytes: MiB }, v2)), ['memory.swap.max=0', 'memory.max=1048576']);
  const withoutAccounting = { ...v2, hasSwapAccounting: false };
  assert.deepEqual(text(planCgroup({ memoryLimitBytes: MiB, memorySwapLimitBytes: MiB }, withoutAccounting)), ['memory.max=1048576']);
  assert.deepEqual(text(planCgroup({ memoryLimitBytes: MiB, memorySwapLimitBytes: -1 }, { ...v1, hasSwapAccounting: false })), [
    'memory.limit_in_bytes=1048576',
  ]);
  const requested = { memoryLimitBytes: MiB, memorySwapLimitBytes: MiB + 1 };
  assert.throws(() => planCgroup(requested, withoutAccounting), refusal('FAILED_PRECONDITION', /no swap accounting/));
});

test('planCgroup() rejects memory plus swap below memory, and without memory', () => {
  for (const facts of [v1, v2]) {
    const below = { memoryLimitBytes: MiB, memorySwapLimitBytes: MiB - 1 };
    assert.throws(() => planCgroup(below, facts), refusal('INVALID_ARGUMENT', /1048575 bytes: below the memory limit \(1048576 bytes\)/));
    assert.throws(() => planCgroup({ memorySwapLimitBytes: MiB }, facts), refusal('INVALID_ARGUMENT', /requires a memory limit/));
    assert.throws(() => planCgroup({ memoryLimitBytes: -1, memorySwapLimitBytes: MiB }, facts), refusal('INVALID_ARGUMENT', /unlimited/));
    assert.equal(planCgroup({ memoryLimitBytes: MiB, memorySwapLimitBytes: MiB }, facts).length, 2);
  }
});

test('planCgroup() checks the bounds of quota and period', () => {
  for (const facts of [v1, v2]) {
    assert.throws(() => planCgroup({ cpuQuotaUs: 999 }, facts), refusal('INVALID_ARGUMENT', /cpu quota 999 us/));
    assert.throws(() => planCgroup({ cpuPeriodUs: 999 }, facts), refusal('INVALID_ARGUMENT', /cpu period 999 us/));
    assert.throws(() => planCgroup({ cpuPeriodUs: 1_000_001 }, facts), refusal('INVALID_ARGUMENT', /cpu period 1000001 us/));
    planCgroup({ cpuQuotaUs: 1000, cpuPeriodUs: 1000 }, facts);
    planCgroup({ cpuPeriodUs: 1_000_000 }, facts);
  }
});

test('planCgroup() rejects a limit without its controller', () => {
  const cases = [
    [{ memoryLimitBytes: MiB }, 'memory'],
    [{ cpuShares: 10 }, 'cpu'],
    [{ cpuPeriodUs: 2000 }, 'cpu'],
    [{ cpusetMems: '0' }, 'cpuset'],
    [{ hugepageLimits: [{ pageSize: '2MB', limitBytes: 1 }] }, 'hugetlb'],
  ] as const;
  for (const facts of [v1, v2]) {
    for (const [resources, controller] of cases) {
      assert.throws(() => planCgroup(resources, without(facts, controller)), refusal('FAILED_PRECONDITION', new RegExp(`controller ${controller}$`)));
    }
    assert.throws(() => planCgroup({ unified: { 'pids.max': '5' } }, without(facts, 'pids')), refusal('FAILED_PRECONDITION', /controller pids/));
  }
});

test('planCgroup() accepts a huge page limit of 0 for a missing page size or controller', () => {
  const limits = [{ pageSize: '1GB', limitBytes: 0 }];
  assert.deepEqual(planCgroup({ hugepageLimits: limits }, v1), []);
  assert.deepEqual(planCgroup({ hugepageLimits: limits }, without(v2, 'hugetlb')), []);
  assert.throws(
    () => planCgroup({ hugepageLimits: [{ pageSize: '1GB', limitBytes: 1 }] }, v2),
    refusal('FAILED_PRECONDITION', /does not support this page size/),
  );
  assert.throws(() => planCgroup({ hugepageLimits: [{ pageSize: '../x', limitBytes: 1 }] }, v2), refusal('INVALID_ARGUMENT', /2MB/));
  const [inUse, reserved] = planCgroup({ hugepageLimits: [{ pageSize: '2MB', limitBytes: 0 }] }, v1);
  assert.deepEqual([inUse?.tolerate, reserved?.tolerate], [undefined, 'missing']);
});

test('planCgroup() checks the names of unified values', () => {
  for (const name of [
    '../memory.max',
    'memory/max',
    'memory',
    '.max',
    'memory.',
    '',
    'cgroup.procs',
    'cgroup.kill',
    'cgroup.subtree_control',
    'cgroup.freeze',
    'memory.reclaim',
    'cpu.pressure',
  ]) {
    assert.throws(() => planCgroup({ unified: { [name]: '1' } }, v2), refusal('INVALID_ARGUMENT', /this file does not store a setting/), name);
  }
  assert.throws(() => planCgroup({ unified: { 'rdma.max': '1' } }, v2), refusal('FAILED_PRECONDITION', /set rdma.max.*controller rdma/));
  assert.throws(() => planCgroup({ unified: { 'memory.high': '1' } }, v1), refusal('FAILED_PRECONDITION', /memory.high.*requires cgroup v2/));
  assert.deepEqual(text(planCgroup({ unified: { 'hugetlb.2MB.max': '0' } }, v2)), ['hugetlb.2MB.max=0']);
});

test('planCgroup() rejects an invalid cpuset', () => {
  for (const list of ['0\n1', 'all', '0;1']) assert.throws(() => planCgroup({ cpusetCpus: list }, v1), refusal('INVALID_ARGUMENT', /invalid cpuset/));
});

test('planCgroupUpdate() on v1 keeps memory at or below memory plus swap after every write', () => {
  const steps: readonly (readonly [number, number])[] = [
    [64, 64],
    [128, 128],
    [32, 256],
    [256, 256],
    [-1, -1],
    [16, 32],
    [64, -1],
    [8, 8],
  ];
  let current = {};
  const bound = (value: string): number => (value === '-1' ? Number.POSITIVE_INFINITY : Number(value));
  const kernel: Record<string, number> = {
    'memory.limit_in_bytes': Number.POSITIVE_INFINITY,
    'memory.memsw.limit_in_bytes': Number.POSITIVE_INFINITY,
  };
  for (const [memoryLimitBytes, memorySwapLimitBytes] of steps) {
    const update = planCgroupUpdate(current, { memoryLimitBytes, memorySwapLimitBytes }, v1, null);
    for (const write of update.writes) {
      kernel[write.file] = bound(write.value);
      assert.ok(Number(kernel['memory.limit_in_bytes']) <= Number(kernel['memory.memsw.limit_in_bytes']), `${write.file}=${write.value}`);
    }
    current = update.resources;
  }
  assert.deepEqual(kernel, { 'memory.limit_in_bytes': 8, 'memory.memsw.limit_in_bytes': 8 });
});

test('planCgroupUpdate() on v1 never exceeds the higher of the old and the new cpu ratio', () => {
  const steps: readonly (readonly [number, number])[] = [
    [50_000, 100_000],
    [5_000, 10_000],
    [100_000, 200_000],
    [20_000, 100_000],
    [-1, 1_000],
    [10_000, 20_000],
  ];
  let current: { cpuQuotaUs?: number; cpuPeriodUs?: number } = {};
  const kernel = { quota: -1, period: 100_000 };
  const ratio = (quota: number, period: number): number => (quota < 0 ? Number.POSITIVE_INFINITY : quota / period);
  for (const [cpuQuotaUs, cpuPeriodUs] of steps) {
    const ratioMax = Math.max(ratio(kernel.quota, kernel.period), ratio(cpuQuotaUs, cpuPeriodUs));
    const update = planCgroupUpdate(current, { cpuQuotaUs, cpuPeriodUs }, v1, null);
    for (const write of update.writes) {
      kernel[write.file === 'cpu.cfs_quota_us' ? 'quota' : 'period'] = Number(write.value);
      assert.ok(ratio(kernel.quota, kernel.period) <= ratioMax, `${write.file}=${write.value}`);
    }
    current = update.resources;
  }
  assert.deepEqual(kernel, { quota: 10_000, period: 20_000 });
});

test('planCgroupUpdate() merges a partial change with the current resources', () => {
  const current = { cpuQuotaUs: 50_000, cpuPeriodUs: 20_000, memoryLimitBytes: 64 * MiB, memorySwapLimitBytes: 96 * MiB };
  assert.deepEqual(text(planCgroupUpdate(current, { cpuQuotaUs: 30_000 }, v2, null).writes), ['cpu.max=30000 20000']);
  assert.deepEqual(text(planCgroupUpdate(current, { memoryLimitBytes: 80 * MiB }, v2, null).writes), [
    `memory.swap.max=${16 * MiB}`,
    `memory.max=${80 * MiB}`,
  ]);
  assert.throws(() => planCgroupUpdate(current, { memoryLimitBytes: 97 * MiB }, v2, null), refusal('INVALID_ARGUMENT', /below the memory limit/));
  assert.deepEqual(planCgroupUpdate(current, { oomScoreAdj: 5 }, v2, null), { resources: { ...current, oomScoreAdj: 5 }, writes: [] });
});

test('planCgroupUpdate() of memory to -1 lifts an earlier limit of memory plus swap, which does not return', () => {
  const current = { memoryLimitBytes: 64 * MiB, memorySwapLimitBytes: 96 * MiB };
  const onV2 = planCgroupUpdate(current, { memoryLimitBytes: -1 }, v2, null);
  assert.deepEqual(text(onV2.writes), ['memory.swap.max=max', 'memory.max=max']);
  assert.deepEqual(text(planCgroupUpdate(current, { memoryLimitBytes: -1 }, v1, null).writes), [
    'memory.memsw.limit_in_bytes=-1',
    'memory.limit_in_bytes=-1',
  ]);
  const again = planCgroupUpdate(onV2.resources, { memoryLimitBytes: 32 * MiB }, v2, null);
  assert.deepEqual(text(again.writes), ['memory.swap.max=0', `memory.max=${32 * MiB}`]);
  const contradiction = { memoryLimitBytes: -1, memorySwapLimitBytes: MiB };
  assert.throws(() => planCgroupUpdate(current, contradiction, v2, null), refusal('INVALID_ARGUMENT', /unlimited/));
});

test('planCgroup() converts an unlimited huge page limit for both versions', () => {
  const resources = { hugepageLimits: [{ pageSize: '2MB', limitBytes: -1 }] };
  assert.deepEqual(text(planCgroup(resources, v2)), ['hugetlb.2MB.max=max', 'hugetlb.2MB.rsvd.max=max']);
  assert.deepEqual(text(planCgroup(resources, v1)), ['hugetlb.2MB.limit_in_bytes=-1', 'hugetlb.2MB.rsvd.limit_in_bytes=-1']);
  assert.deepEqual(planCgroup({ hugepageLimits: [{ pageSize: '64KB', limitBytes: -1 }] }, v2), []);
});

test('planCgroupUpdate() rejects a memory limit below the usage and reports both numbers', () => {
  const current = { memoryLimitBytes: 64 * MiB };
  const usage = { memoryBytes: 32 * MiB };
  for (const facts of [v1, v2]) {
    const below = { memoryLimitBytes: 32 * MiB - 1 };
    assert.throws(() => planCgroupUpdate(current, below, facts, usage), refusal('FAILED_PRECONDITION', /33554431 bytes is below the 33554432 bytes/));
    assert.equal(planCgroupUpdate(current, { memoryLimitBytes: 32 * MiB }, facts, usage).writes.length, 2);
    assert.equal(planCgroupUpdate(current, below, facts, null).writes.length, 2);
    assert.equal(planCgroupUpdate(current, { memoryLimitBytes: -1 }, facts, usage).writes.length, 2);
    // The usage exceeds the limit already, and the request repeats the same limit.
    assert.equal(planCgroupUpdate(current, { memoryLimitBytes: 64 * MiB }, facts, { memoryBytes: 65 * MiB }).writes.length, 2);
  }
});

test('mergeResources() keeps absent fields and merges by name', () => {
  const current = { cpuShares: 5, unified: { 'memory.high': '1', 'memory.low': '2' }, hugepageLimits: [{ pageSize: '2MB', limitBytes: 1 }] };
  const wanted = { cpuQuotaUs: -1, unified: { 'memory.high': '3' }, hugepageLimits: [{ pageSize: '1GB', limitBytes: 0 }] };
  assert.deepEqual(mergeResources(current, wanted), {
    cpuShares: 5,
    cpuQuotaUs: -1,
    unified: { 'memory.high': '3', 'memory.low': '2' },
    hugepageLimits: [
      { pageSize: '2MB', limitBytes: 1 },
      { pageSize: '1GB', limitBytes: 0 },
    ],
  });
  assert.deepEqual(mergeResources({}, {}), {});
});

test('planCgroupUpdate() keeps a unified value if a field of the same file changes', () => {
  const current = { memoryLimitBytes: 32 * MiB, unified: { 'memory.swap.max': '1000' } };
  const { writes } = planCgroupUpdate(current, { memoryLimitBytes: 64 * MiB }, v2, null);
  assert.deepEqual(text(writes), ['memory.swap.max=1000', `memory.max=${64 * MiB}`]);
});

test('planCgroupUpdate() writes burst and quota in an order that keeps the burst within the quota', () => {
  for (const [facts, burst] of [
    [v1, 'cpu.cfs_burst_us'],
    [v2, 'cpu.max.burst'],
  ] as const) {
    const set = (us: number) => ({ cpuQuotaUs: us, cpuPeriodUs: 100_000, unified: { 'cpu.max.burst': String(us) } });
    const order = (from: number, to: number) => text(planCgroupUpdate(set(from), set(to), facts, null).writes);
    assert.equal(order(20_000, 10_000)[0], `${burst}=10000`);
    assert.equal(order(10_000, 20_000).at(-1), `${burst}=20000`);
    const above = () => planCgroupUpdate(set(20_000), { cpuQuotaUs: 10_000 }, facts, null);
    assert.throws(above, refusal('INVALID_ARGUMENT', /burst 20000 us: exceeds the quota of 10000 us/));
  }
});

test('planCgroupUpdate() writes no shares while a container is idle, and restores them afterwards', () => {
  const idle = { cpuShares: 512, unified: { 'cpu.idle': '1' } };
  assert.deepEqual(text(planCgroup(idle, v2)), ['cpu.idle=1']);
  assert.deepEqual(planCgroupUpdate(idle, { cpuShares: 1024 }, v1, null).writes, []);
  const busy = (facts: CgroupFacts) => text(planCgroupUpdate(idle, { unified: { 'cpu.idle': '0' } }, facts, null).writes);
  assert.deepEqual(busy(v2), ['cpu.idle=0', 'cpu.weight=59']);
  assert.deepEqual(busy(v1), ['cpu.idle=0', 'cpu.shares=512']);
});

test('planCgroup() converts unified values to v1 if it has an equivalent', () => {
  const facts = { ...v1, controllers: new Set([...v1.controllers, 'blkio']) };
  const unified = { 'pids.max': '9', 'memory.low': 'max', 'io.max': '8:0 rbps=1000 wiops=max\n8:16 wbps=5' };
  assert.deepEqual(text(planCgroup({ unified }, facts)), [
    'pids.max=9',
    'memory.soft_limit_in_bytes=-1',
    'blkio.throttle.read_bps_device=8:0 1000',
    'blkio.throttle.write_iops_device=8:0 0',
    'blkio.throttle.write_bps_device=8:16 5',
  ]);
  for (const line of ['8:0 rbps', '8:0 rbps=1 what=2', 'sda rbps=1', '8:0 rbps=-1'])
    assert.throws(() => planCgroup({ unified: { 'io.max': line } }, facts), refusal('INVALID_ARGUMENT', /io\.max/), line);
});

test('planCgroup() accepts several lines only for files with one line for each device', () => {
  assert.throws(
    () => planCgroup({ unified: { 'memory.max': '1\n2' } }, v2),
    refusal('INVALID_ARGUMENT', /memory\.max: "1\\n2" has more than one line/),
  );
  assert.deepEqual(text(planCgroup({ unified: { 'cpuset.cpus': '', 'memory.high': '5\n' } }, v2)), ['cpuset.cpus=\n', 'memory.high=5']);
});

test('planCgroupUpdate() rejects a unified memory limit below the usage', () => {
  const update = () => planCgroupUpdate({}, { unified: { 'memory.max': '1000' } }, v2, { memoryBytes: 2000 });
  assert.throws(update, refusal('FAILED_PRECONDITION', /1000 bytes is below the 2000 bytes/));
});

test('planCgroupUpdate() checks memory.max in the notation of the kernel against current usage', () => {
  const usage = { memoryBytes: 100 * MiB };
  const update = (max: string, memoryLimitBytes = 10 * MiB) => planCgroupUpdate({}, { memoryLimitBytes, unified: { 'memory.max': max } }, v2, usage);
  for (const max of ['64M', '65536k', String(64 * MiB)])
    assert.throws(() => update(max), refusal('FAILED_PRECONDITION', /memory limit 67108864 bytes is below the 104857600 bytes/));
  assert.doesNotThrow(() => update('1G'));
  assert.doesNotThrow(() => update('max'));
});
