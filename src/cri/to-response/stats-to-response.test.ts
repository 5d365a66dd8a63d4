import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerView, sandboxView } from '../../../test/support/cri-fakes.ts';
import type { ContainerStats, SandboxStats } from '../../engine/usage/stats.ts';
import type { CgroupCounters } from '../../sys/cgroup/cgroup-counters.ts';
import { containerStats, podSandboxStats } from './stats-to-response.ts';

const line = (totalNs: bigint) => ({ totalNs, avg10: 1.5, avg60: 0.5, avg300: 0.25 });
const counters: CgroupCounters = {
  cpuUsageNs: 18_000_000_000_000_000_001n,
  memory: { usageBytes: 300, workingSetBytes: 200, rssBytes: 100, pageFaults: 7, majorPageFaults: 1, limitBytes: 1000 },
  swap: { usageBytes: 30, limitBytes: 100 },
  tasks: 4,
  pressure: { cpu: { some: line(5000n), full: line(0n) }, memory: null, io: { some: line(3n), full: line(2n) } },
};
const quiet: CgroupCounters = { cpuUsageNs: 0n, memory: null, swap: null, tasks: null, pressure: { cpu: null, memory: null, io: null } };

const stats = (change: Partial<ContainerStats> = {}): ContainerStats => ({
  record: containerView('c1').record,
  atNs: '77',
  counters,
  nanoCores: 250_000_000,
  writableLayer: { bytes: 4096, inodes: 1, atNs: '70' },
  ...change,
});

test('containerStats() returns all known values, each part with a timestamp', () => {
  const message = containerStats(stats(), '/var/lib/berth');
  assert.deepEqual(message.attributes, { id: 'c1', metadata: { name: 'main', attempt: 0 }, labels: { app: 'web', tier: '' }, annotations: {} });
  assert.deepEqual(message.cpu, {
    timestamp: '77',
    usage_core_nano_seconds: { value: '18000000000000000001' },
    usage_nano_cores: { value: '250000000' },
    psi: { Full: { Total: '0', Avg10: 1.5, Avg60: 0.5, Avg300: 0.25 }, Some: { Total: '5000', Avg10: 1.5, Avg60: 0.5, Avg300: 0.25 } },
  });
  assert.deepEqual(message.memory, {
    timestamp: '77',
    working_set_bytes: { value: '200' },
    available_bytes: { value: '800' },
    usage_bytes: { value: '300' },
    rss_bytes: { value: '100' },
    page_faults: { value: '7' },
    major_page_faults: { value: '1' },
    psi: undefined,
  });
  assert.deepEqual(message.swap, { timestamp: '77', swap_usage_bytes: { value: '30' }, swap_available_bytes: { value: '70' } });
  assert.deepEqual(message.writable_layer, {
    timestamp: '70',
    fs_id: { mountpoint: '/var/lib/berth' },
    used_bytes: { value: '4096' },
    inodes_used: { value: '1' },
  });
  assert.equal(message.io?.psi?.Some?.Total, '3');
});

test('containerStats() omits unknown values, but keeps the timestamps', () => {
  const message = containerStats(stats({ counters: quiet, nanoCores: null, writableLayer: null }), '/r');
  assert.deepEqual(message.cpu, { timestamp: '77', usage_core_nano_seconds: { value: '0' }, usage_nano_cores: undefined, psi: undefined });
  assert.deepEqual(message.memory, { timestamp: '77', psi: undefined });
  assert.deepEqual([message.swap, message.io], [undefined, undefined]);
  assert.deepEqual(message.writable_layer, { timestamp: '77', fs_id: { mountpoint: '/r' }, used_bytes: undefined, inodes_used: undefined });
});

test('available memory is unset without a limit, and 0 above it', () => {
  const availableAt = (limitBytes: number | null) =>
    containerStats(
      stats({ counters: { ...counters, memory: { usageBytes: 9, workingSetBytes: 9, rssBytes: 0, pageFaults: 0, majorPageFaults: 0, limitBytes } } }),
      '/r',
    ).memory?.available_bytes;
  assert.deepEqual([availableAt(null), availableAt(5)], [undefined, { value: '0' }]);
});

const sandboxStats = (change: Partial<SandboxStats> = {}): SandboxStats => ({
  record: sandboxView('s1').record,
  atNs: '88',
  counters,
  nanoCores: null,
  interfaces: [],
  containers: [stats()],
  ...change,
});
const packets = (bytes: number) => ({ bytes, packets: 1, errors: 2, dropped: 3 });

test('podSandboxStats() uses eth0 as default interface, at any position', () => {
  const interfaces = ['net1', 'eth0'].map((name, index) => ({ name, receive: packets(index), transmit: packets(10 + index) }));
  const network = podSandboxStats(sandboxStats({ interfaces }), '/r').linux?.network;
  assert.deepEqual(network?.default_interface, {
    name: 'eth0',
    rx_bytes: { value: '1' },
    rx_errors: { value: '2' },
    tx_bytes: { value: '11' },
    tx_errors: { value: '2' },
  });
  assert.deepEqual([network?.timestamp, network?.interfaces?.map(({ name }) => name)], ['88', ['net1', 'eth0']]);
});

test('podSandboxStats() omits the network with host networking, and the usage of a removed cgroup', () => {
  const linux = podSandboxStats(sandboxStats({ interfaces: null, counters: null }), '/r').linux;
  assert.deepEqual([linux?.network, linux?.cpu, linux?.memory, linux?.process], [undefined, undefined, undefined, undefined]);
  assert.deepEqual(
    linux?.containers?.map(({ attributes }) => attributes?.id),
    ['c1'],
  );
});

test('podSandboxStats() counts processes', () => {
  assert.deepEqual(podSandboxStats(sandboxStats(), '/r').linux?.process, { timestamp: '88', process_count: { value: '4' } });
});
