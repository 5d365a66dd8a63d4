import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import type { CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { parentSlice, scopeName, scopeProperties, slicePath, unitOf, unitProperties } from './systemd-units.ts';

const refusal = (message: RegExp) => (error: unknown) =>
  error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message);

test('parentSlice() returns the last component, and the default for an empty parent', () => {
  const pod = 'kubepods-burstable-pod0a1b_2c.slice';
  assert.equal(parentSlice(`/kubepods.slice/kubepods-burstable.slice/${pod}`, 'system.slice'), pod);
  assert.equal(parentSlice(pod, 'system.slice'), pod);
  assert.equal(parentSlice('/test.slice/', 'system.slice'), 'test.slice');
  assert.equal(parentSlice('', 'system.slice'), 'system.slice');
  assert.equal(parentSlice('', '/own.slice/own-pods.slice'), 'own-pods.slice');
  assert.equal(parentSlice('-.slice', 'system.slice'), '-.slice');
});

test('parentSlice() rejects a path that is not a slice, and names the setting', () => {
  for (const parent of ['/kubepods/burstable/pod1', '/', '/a.slice/b', '/a.scope'])
    assert.throws(() => parentSlice(parent, 'system.slice'), refusal(/is not a systemd slice.*cgroupDriver/), parent);
});

test('parentSlice() rejects names that systemd does not accept', () => {
  for (const slice of ['.slice', '-a.slice', 'a-.slice', 'a--b.slice', '--.slice', 'a b.slice', 'a\n.slice', `${'x'.repeat(250)}.slice`])
    assert.throws(() => parentSlice(slice, 'system.slice'), refusal(/invalid slice name/), slice);
  assert.equal(parentSlice(`${'x'.repeat(249)}.slice`, 'system.slice').length, 255);
});

test('slicePath() adds a directory for each dash', () => {
  assert.equal(slicePath('system.slice'), '/system.slice');
  assert.equal(slicePath('kubepods-burstable-podab_c.slice'), '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice');
  assert.equal(slicePath('-.slice'), '');
});

test('unitOf() returns scope and slice of a path, and null for cgroups of another driver', () => {
  const scope = scopeName('ab'.repeat(32), 'cri-berth');
  assert.equal(scope, `cri-berth-${'ab'.repeat(32)}.scope`);
  assert.deepEqual(unitOf(`/a.slice/a-b.slice/${scope}`), { scope, slice: 'a-b.slice' });
  assert.deepEqual(unitOf(`/${scope}`), { scope, slice: '-.slice' });
  assert.equal(unitOf(`/kubepods/pod1/${'ab'.repeat(32)}`), null);
  assert.equal(unitOf('/system.slice/session-1.scope'), null);
  const likeCrio = scopeName('ab'.repeat(32), 'crio');
  assert.deepEqual(unitOf(`/a.slice/${likeCrio}`), { scope: likeCrio, slice: 'a.slice' });
  assert.equal(unitOf(`/kubepods/pod1/${likeCrio}`), null);
});

const shown = (properties: ReturnType<typeof unitProperties>) =>
  Object.fromEntries(properties.map(({ name, value }) => [name, value.value instanceof Uint8Array ? [...value.value] : value.value]));
const writes = (values: Readonly<Record<string, string>>): CgroupWrite[] =>
  Object.entries(values).map(([file, value]) => ({ controller: file.slice(0, file.indexOf('.')), file, value, note: '' }));

const infinity = 2n ** 64n - 1n;
const unlimited = {
  CPUWeight: infinity,
  MemoryMin: 0n,
  MemoryLow: 0n,
  MemoryHigh: infinity,
  MemoryMax: infinity,
  MemorySwapMax: infinity,
  TasksMax: infinity,
  CPUQuotaPerSecUSec: infinity,
};

test('scopeProperties() delegates the cgroup, leaves shutdown to the kubelet, and collects failed units', () => {
  assert.deepEqual(shown(scopeProperties('a-b.slice', 'a container')), {
    Description: 'a container',
    Slice: 'a-b.slice',
    Delegate: true,
    DefaultDependencies: false,
    CollectMode: 'inactive-or-failed',
    CPUAccounting: true,
    MemoryAccounting: true,
    IOAccounting: true,
    TasksAccounting: true,
  });
});

test('unitProperties() sets unlimited without a write, so that no default of the node applies', () => {
  assert.deepEqual(shown(unitProperties([], 252)), unlimited);
});

test('unitProperties() has a property for each limit of cgroup v2', () => {
  const values = {
    'cpu.weight': '59',
    'cpu.max': '50000 100000',
    'cpuset.cpus': '0-2,9',
    'cpuset.mems': '0',
    'memory.min': '1000',
    'memory.low': '2000',
    'memory.high': '3000',
    'memory.swap.max': '0',
    'memory.max': '4096',
    'pids.max': '100',
    'io.weight': 'default 200',
  };
  assert.deepEqual(shown(unitProperties(writes(values), 252)), {
    CPUWeight: 59n,
    MemoryMin: 1000n,
    MemoryLow: 2000n,
    MemoryHigh: 3000n,
    MemoryMax: 4096n,
    MemorySwapMax: 0n,
    TasksMax: 100n,
    CPUQuotaPerSecUSec: 500_000n,
    CPUQuotaPeriodUSec: 100_000n,
    AllowedCPUs: [0b111, 0b10],
    AllowedMemoryNodes: [1],
    IOWeight: 200n,
  });
});

test('unitProperties() has the smallest value that systemd accepts in place of 0', () => {
  const zeros = Object.fromEntries(
    ['memory.min', 'memory.low', 'memory.high', 'memory.max', 'memory.swap.max', 'pids.max'].map((file) => [file, '0']),
  );
  const { MemoryMin, MemoryLow, MemoryHigh, MemoryMax, MemorySwapMax, TasksMax } = shown(unitProperties(writes(zeros), 252));
  assert.deepEqual([MemoryMin, MemoryLow, MemoryHigh, MemoryMax, MemorySwapMax, TasksMax], [0n, 0n, 1n, 1n, 0n, 1n]);
});

test('unitProperties() rounds a quota up to whole percent, as systemd does', () => {
  const quota = (value: string) => shown(unitProperties(writes({ 'cpu.max': value }), 252))['CPUQuotaPerSecUSec'];
  assert.equal(quota('2500 100000'), 30_000n);
  assert.equal(quota('1000 1000000'), 10_000n);
  assert.equal(quota('150000 100000'), 1_500_000n);
  assert.equal(quota('50000'), 500_000n);
  assert.equal(quota('max 100000'), infinity);
});

test('unitProperties() uses the last of several values, and omits values without a property', () => {
  const twice = [...writes({ 'memory.max': '1' }), ...writes({ 'memory.max': 'max', 'memory.oom.group': '1', 'io.max': '8:0 rbps=1' })];
  assert.deepEqual(shown(unitProperties(twice, 252)), unlimited);
});

test('unitProperties() parses values like the kernel: sizes with a unit, cpu ranges with a stride', () => {
  const found = shown(unitProperties(writes({ 'memory.max': '64M', 'memory.low': '1g', 'cpuset.cpus': '0-7:1/4,9' }), 252));
  assert.deepEqual([found['MemoryMax'], found['MemoryLow'], found['AllowedCPUs']], [64n << 20n, 1n << 30n, [0b1_0001, 0b10]]);
});

test('unitProperties() sets idle if systemd supports it', () => {
  const weight = (version: number) => shown(unitProperties(writes({ 'cpu.idle': '1' }), version))['CPUWeight'];
  assert.deepEqual([weight(249), weight(252)], [infinity, 0n]);
});
