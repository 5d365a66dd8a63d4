/**
 * What running containers and sandboxes use: read from the kernel when asked, a portion at a time. Nothing runs between two questions.
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
  /** Since the question before; null for the first. */
  readonly nanoCores: number | null;
  /** Null until it was measured. */
  readonly writableLayer: LayerUsage | null;
};

export type SandboxStats = {
  readonly record: SandboxRecord;
  readonly atNs: string;
  /** Of the pod's cgroup, which holds more than its containers; null when there is nothing to read. */
  readonly counters: CgroupCounters | null;
  readonly nanoCores: number | null;
  /** Null with the host's network. */
  readonly interfaces: readonly InterfaceCounters[] | null;
  readonly containers: readonly ContainerStats[];
};

export type Stats = {
  /** Of those that run; the others, and those that end meanwhile, are left out. In portions, with a turn for others in between. */
  readonly containers: (views: readonly ContainerView[]) => AsyncGenerator<readonly ContainerStats[]>;
  /** Of those that are ready, with their running containers. As above. */
  readonly sandboxes: (views: readonly SandboxView[]) => AsyncGenerator<readonly SandboxStats[]>;
};

/** About 100 us each: a portion keeps others waiting for two or three milliseconds. */
const containersPerTurn = 24;
const sandboxesPerTurn = 12;

export type StatsDeps = Pick<EngineDeps, 'cgroups' | 'cgroupDriver' | 'clock' | 'rootfs' | 'store' | 'settings'>;

type Reading = {
  readonly deps: StatsDeps;
  readonly cgroups: CgroupReader;
  readonly layers: LayerUsages;
  /** The sample before, by record: it goes with the object. */
  readonly samples: WeakMap<ContainerRecord | SandboxRecord, CpuSample>;
};

export function createStats(deps: StatsDeps): Stats {
  const reading: Reading = { deps, cgroups: createCgroupReader(deps.cgroups), layers: createLayerUsages(deps), samples: new WeakMap() };
  return {
    containers: async function* (views) {
      const records = views.filter(isRunning).map(({ record }) => record);
      await reading.layers.refresh(records);
      for await (const portion of inTurns(records, containersPerTurn)) yield readContainers(reading, portion);
    },
    sandboxes: async function* (views) {
      const ready = views.filter(({ status }) => sandboxState(status) === 'ready');
      const running = byRunningSandbox(deps);
      await reading.layers.refresh(ready.flatMap(({ record }) => running.get(record.id) ?? []));
      for await (const portion of inTurns(ready, sandboxesPerTurn)) yield readSandboxes(reading, portion, running);
    },
  };
}

const isRunning = ({ status }: ContainerView): boolean => containerState(status) === 'running';

function byRunningSandbox({ store }: StatsDeps): ReadonlyMap<string, ContainerRecord[]> {
  return Map.groupBy(
    store.containers
      .all()
      .filter(isRunning)
      .map(({ record }) => record),
    (record) => record.sandboxId,
  );
}

async function* inTurns<Item>(items: readonly Item[], size: number): AsyncGenerator<readonly Item[]> {
  for (let start = 0; start < items.length; start += size) {
    if (start > 0) await nextTurn();
    yield items.slice(start, start + size);
  }
}

function readContainers(reading: Reading, records: readonly ContainerRecord[]): ContainerStats[] {
  return records.flatMap((record) => {
    const counters = reading.cgroups.counters(record.cgroupPath);
    // Between the end of its last process and the status that says so, or just removed.
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

/** The kubelet gives each pod a cgroup. Without one (null), containers lie beside those of other pods, and only their sum is the pod's. */
export function podCgroupPath({ cgroupDriver }: Pick<StatsDeps, 'cgroupDriver'>, { spec }: SandboxRecord): string | null {
  if (spec.cgroupParent === '') return null;
  return cgroupDriver.parentPathOf(spec.cgroupParent) || null;
}
