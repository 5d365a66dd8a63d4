/**
 * Resource usage of running containers and sandboxes: read from the kernel on request, in batches. Nothing runs between requests.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { addUp, type CgroupCounters } from '../../sys/cgroup/cgroup-counters.ts';
import { type CgroupReader, createCgroupReader } from '../../sys/cgroup/cgroup-stats.ts';
import type { InterfaceCounters } from '../../sys/network/net-dev.ts';
import { readInterfaces } from '../../sys/network/network-counters.ts';
import type { EngineDeps } from '../deps.ts';
import { type ContainerRecord, type ContainerView, containerState, type SandboxRecord, type SandboxView, sandboxState } from '../state/records.ts';
import { type CpuSample, nextSample } from './cpu-rate.ts';
import { createLayerUsages, type LayerUsage, type LayerUsages } from './layer-usage.ts';

export type ContainerStats = {
  readonly record: ContainerRecord;
  readonly atNs: string;
  readonly counters: CgroupCounters;
  /** Since the previous request; null for the first. */
  readonly nanoCores: number | null;
  /** Null until it has been measured. */
  readonly writableLayer: LayerUsage | null;
};

export type SandboxStats = {
  readonly record: SandboxRecord;
  readonly atNs: string;
  /** Of the pod's cgroup, which contains more than its containers; null if it cannot be read. */
  readonly counters: CgroupCounters | null;
  readonly nanoCores: number | null;
  /** Null with host network. */
  readonly interfaces: readonly InterfaceCounters[] | null;
  readonly containers: readonly ContainerStats[];
};

export type Stats = {
  /** Usage of running containers; those that exit in the meantime are omitted. In batches: the event loop runs between them. */
  readonly containers: (views: readonly ContainerView[]) => AsyncGenerator<readonly ContainerStats[]>;
  /** Usage of ready sandboxes and their running containers, in batches as above. */
  readonly sandboxes: (views: readonly SandboxView[]) => AsyncGenerator<readonly SandboxStats[]>;
};

/** About 100 us each: a batch blocks the event loop for two or three milliseconds. */
const containersPerBatch = 24;
const sandboxesPerBatch = 12;

export type StatsDeps = Pick<EngineDeps, 'cgroups' | 'cgroupDriver' | 'clock' | 'rootfs' | 'store' | 'settings'>;

type Reading = {
  readonly deps: StatsDeps;
  readonly cgroups: CgroupReader;
  readonly layers: LayerUsages;
  /** The previous sample, by record: it disappears with the object. */
  readonly samples: WeakMap<ContainerRecord | SandboxRecord, CpuSample>;
};

export function createStats(deps: StatsDeps): Stats {
  const reading: Reading = { deps, cgroups: createCgroupReader(deps.cgroups), layers: createLayerUsages(deps), samples: new WeakMap() };
  return {
    containers: async function* (views) {
      const records = views.filter(isRunning).map(({ record }) => record);
      await reading.layers.refresh(records);
      for await (const batch of inBatches(records, containersPerBatch)) yield readContainers(reading, batch);
    },
    sandboxes: async function* (views) {
      const ready = views.filter(({ status }) => sandboxState(status) === 'ready');
      const running = runningBySandbox(deps);
      await reading.layers.refresh(ready.flatMap(({ record }) => running.get(record.id) ?? []));
      for await (const batch of inBatches(ready, sandboxesPerBatch)) yield readSandboxes(reading, batch, running);
    },
  };
}

const isRunning = ({ status }: ContainerView): boolean => containerState(status) === 'running';

function runningBySandbox({ store }: StatsDeps): ReadonlyMap<string, ContainerRecord[]> {
  return Map.groupBy(
    store.containers
      .all()
      .filter(isRunning)
      .map(({ record }) => record),
    (record) => record.sandboxId,
  );
}

async function* inBatches<Item>(items: readonly Item[], size: number): AsyncGenerator<readonly Item[]> {
  for (let start = 0; start < items.length; start += size) {
    if (start > 0) await nextTurn();
    yield items.slice(start, start + size);
  }
}

function readContainers(reading: Reading, records: readonly ContainerRecord[]): ContainerStats[] {
  return records.flatMap((record) => {
    const counters = reading.cgroups.counters(record.cgroupPath);
    // The container has just exited or been removed, and the status has not been updated yet.
    if (counters === null) return [];
    const nanoCores = rate(reading, record, counters);
    return [{ record, atNs: reading.deps.clock.nowNs(), counters, nanoCores, writableLayer: reading.layers.of(record) }];
  });
}

function rate({ samples }: Reading, record: ContainerRecord | SandboxRecord, { cpuUsageNs }: CgroupCounters): number | null {
  if (cpuUsageNs === null) return null;
  const sample = nextSample(samples.get(record), cpuUsageNs, performance.now());
  samples.set(record, sample);
  return sample.nanoCores;
}

function readSandboxes(reading: Reading, views: readonly SandboxView[], running: ReadonlyMap<string, ContainerRecord[]>): SandboxStats[] {
  const networks = networksOf(views);
  return views.map(({ record }) => {
    const containers = readContainers(reading, running.get(record.id) ?? []);
    const counters = podCounters(reading, record, containers);
    const nanoCores = counters === null ? null : rate(reading, record, counters);
    return { record, atNs: reading.deps.clock.nowNs(), counters, nanoCores, interfaces: networks.get(record.id) ?? null, containers };
  });
}

function networksOf(views: readonly SandboxView[]): ReadonlyMap<string, readonly InterfaceCounters[] | null> {
  const withNetwork = views.flatMap(({ record: { id, netnsPath } }) => (netnsPath === undefined ? [] : [{ id, netnsPath }]));
  const counters = readInterfaces(withNetwork.map(({ netnsPath }) => netnsPath));
  return new Map(withNetwork.map(({ id }, index) => [id, counters[index] ?? null]));
}

function podCounters({ deps, cgroups }: Reading, record: SandboxRecord, containers: readonly ContainerStats[]): CgroupCounters | null {
  const path = podCgroupPath(deps, record);
  return path === null ? addUp(containers.map(({ counters }) => counters)) : cgroups.counters(path);
}

/** Returns the pod's cgroup, which the kubelet creates; null if there is none. Then the pod's usage is the sum of its containers. */
export function podCgroupPath({ cgroupDriver }: Pick<StatsDeps, 'cgroupDriver'>, { spec }: SandboxRecord): string | null {
  if (spec.cgroupParent === '') return null;
  return cgroupDriver.parentPathOf(spec.cgroupParent) || null;
}
