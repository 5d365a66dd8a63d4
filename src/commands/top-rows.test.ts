import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerStats, PodSandboxStats } from '../cri/wire/messages.ts';
import { podUses, type Sample } from './top-rows.ts';

const value = (number: number) => ({ value: String(number) });

type Counters = { readonly ns: number; readonly cpuNs: number; readonly rx?: number };

function container(id: string, { ns, cpuNs }: Counters): ContainerStats {
  return {
    attributes: { id, metadata: { name: `name-${id}`, attempt: 3 } },
    cpu: { timestamp: String(ns), usage_core_nano_seconds: value(cpuNs), usage_nano_cores: value(7_000_000) },
    memory: { working_set_bytes: value(2048) },
  };
}

function pod(id: string, counters: Counters, containers: readonly ContainerStats[] = []): PodSandboxStats {
  const network = { default_interface: { name: 'eth0', rx_bytes: value(counters.rx ?? 0), tx_bytes: value(0) } };
  const { cpu, memory } = container(id, counters);
  const attributes = { id, metadata: { name: id, namespace: 'ns', uid: id, attempt: 1 } };
  return { attributes, linux: { cpu, memory, network, process: { process_count: value(5) }, containers } };
}

const sample = (atMs: number, ...stats: readonly PodSandboxStats[]): Sample => ({
  atMs,
  stats: { stats },
  sandboxes: { items: [{ id: 'a', created_at: '1000000000' }] },
  containers: { containers: [{ id: 'c', created_at: '5000000000' }] },
});

test('podUses() computes rates between two samples: CPU with the timestamps of the stats, network with the clock', () => {
  const before = sample(1000, pod('a', { ns: 1e9, cpuNs: 1e9, rx: 100 }, [container('c', { ns: 1e9, cpuNs: 5e8 })]));
  const now = sample(3000, pod('a', { ns: 3e9, cpuNs: 2e9, rx: 4100 }, [container('c', { ns: 2e9, cpuNs: 75e7 })]));
  assert.deepEqual(podUses(before, now, 'cpu', 11_000), [
    {
      name: 'ns/a',
      cpuMillis: 500,
      memoryBytes: 2048,
      processes: 5,
      rxBytesPerSecond: 2000,
      txBytesPerSecond: 0,
      restarts: 1,
      ageSeconds: 10,
      containers: [{ name: 'name-c', cpuMillis: 250, memoryBytes: 2048, restarts: 3, ageSeconds: 6 }],
    },
  ]);
});

test("podUses() uses only the daemon's CPU rate for new pods and for counters that were reset", () => {
  const [first] = podUses(undefined, sample(1000, pod('a', { ns: 1e9, cpuNs: 1e9 })), 'cpu', 11_000);
  assert.deepEqual([first?.cpuMillis, first?.rxBytesPerSecond], [7, undefined]);
  const before = sample(1000, pod('a', { ns: 1e9, cpuNs: 9e9, rx: 500 }));
  const [again] = podUses(before, sample(2000, pod('a', { ns: 2e9, cpuNs: 1e9, rx: 4 })), 'cpu', 11_000);
  assert.deepEqual([again?.cpuMillis, again?.rxBytesPerSecond], [7, undefined]);
  assert.deepEqual(podUses(before, sample(2000, { attributes: { id: 'x' } }), 'memory', 0)[0]?.memoryBytes, undefined);
});

test('podUses() sorts by the given key in descending order, then by name', () => {
  const before = sample(0, pod('a', { ns: 0, cpuNs: 0 }), pod('b', { ns: 0, cpuNs: 0 }), pod('c', { ns: 0, cpuNs: 0 }));
  const now = sample(1000, pod('c', { ns: 1e9, cpuNs: 1e9, rx: 9 }), pod('b', { ns: 1e9, cpuNs: 5e9, rx: 5 }), pod('a', { ns: 1e9, cpuNs: 1e9 }));
  const order = (sort: Parameters<typeof podUses>[2]) =>
    podUses(before, now, sort, 2000)
      .map(({ name }) => name.slice(3))
      .join('');
  assert.deepEqual([order('cpu'), order('network'), order('name'), order('memory')], ['bac', 'cba', 'abc', 'abc']);
});
