/**
 * `berth top`: computes the resource usage of pods and containers from two samples, as sorted rows. Pure.
 */
import type {
  Container,
  ContainerStats,
  ListContainersResponse,
  ListPodSandboxResponse,
  ListPodSandboxStatsResponse,
  PodSandboxStats,
} from '../cri/wire/messages.ts';

/** The daemon's responses at one time. `atMs` is from a monotonic clock. */
export type Sample = {
  readonly atMs: number;
  readonly stats: ListPodSandboxStatsResponse;
  readonly sandboxes: ListPodSandboxResponse;
  readonly containers: ListContainersResponse;
};

/** Values are undefined if they are not known, or not known yet. */
export type Use = {
  readonly name: string;
  /** In millicores. */
  readonly cpuMillis: number | undefined;
  readonly memoryBytes: number | undefined;
  readonly processes?: number | undefined;
  readonly rxBytesPerSecond?: number | undefined;
  readonly txBytesPerSecond?: number | undefined;
  readonly restarts: number;
  readonly ageSeconds: number | undefined;
};

export type PodUse = Use & { readonly containers: readonly Use[] };

export const sortKeys = ['cpu', 'memory', 'processes', 'network', 'restarts', 'age', 'name'] as const;
export type SortKey = (typeof sortKeys)[number];

/** Options of `berth top`. */
export type TopOptions = { readonly isOnce: boolean; readonly intervalMs: number; readonly sort: SortKey };

/** @param before undefined for the first sample: then the only rate is the daemon's own CPU rate. @param nowMs since the epoch. */
export function podUses(before: Sample | undefined, sample: Sample, sort: SortKey, nowMs: number): readonly PodUse[] {
  const olderPods = new Map(before?.stats.stats?.map((stats) => [stats.attributes?.id, stats]));
  const createdPods = createdAt(sample.sandboxes.items);
  const createdContainers = createdAt(sample.containers.containers);
  const seconds = before === undefined ? 0 : (sample.atMs - before.atMs) / 1000;
  const pods = (sample.stats.stats ?? []).map((stats) => {
    const older = olderPods.get(stats.attributes?.id);
    const olderContainers = new Map(older?.linux?.containers?.map((each) => [each.attributes?.id, each]));
    const containers = (stats.linux?.containers ?? []).map((each) =>
      containerUse(olderContainers.get(each.attributes?.id), each, ageSeconds(createdContainers, each.attributes?.id, nowMs)),
    );
    return { ...podUse(older, stats, seconds, ageSeconds(createdPods, stats.attributes?.id, nowMs)), containers: sorted(containers, sort) };
  });
  return sorted(pods, sort);
}

function podUse(older: PodSandboxStats | undefined, { attributes, linux }: PodSandboxStats, seconds: number, age: number | undefined): Use {
  const [now, then] = [linux?.network?.default_interface, older?.linux?.network?.default_interface];
  return {
    name: `${attributes?.metadata?.namespace}/${attributes?.metadata?.name}`,
    cpuMillis: cpuMillis(older?.linux?.cpu, linux?.cpu),
    memoryBytes: numberOf(linux?.memory?.working_set_bytes),
    processes: numberOf(linux?.process?.process_count),
    rxBytesPerSecond: rate(numberOf(then?.rx_bytes), numberOf(now?.rx_bytes), seconds),
    txBytesPerSecond: rate(numberOf(then?.tx_bytes), numberOf(now?.tx_bytes), seconds),
    restarts: attributes?.metadata?.attempt ?? 0,
    ageSeconds: age,
  };
}

function containerUse(older: ContainerStats | undefined, { attributes, cpu, memory }: ContainerStats, age: number | undefined): Use {
  return {
    name: attributes?.metadata?.name ?? '',
    cpuMillis: cpuMillis(older?.cpu, cpu),
    memoryBytes: numberOf(memory?.working_set_bytes),
    restarts: attributes?.metadata?.attempt ?? 0,
    ageSeconds: age,
  };
}

/** Computes the rate between two samples with the timestamps of the stats. Without an older sample, returns the daemon's rate over its own interval. */
function cpuMillis(older: ContainerStats['cpu'], newer: ContainerStats['cpu']): number | undefined {
  const ns = Number(newer?.timestamp ?? 0) - Number(older?.timestamp ?? 0);
  const usedNs = rate(numberOf(older?.usage_core_nano_seconds), numberOf(newer?.usage_core_nano_seconds), 1);
  if (older !== undefined && usedNs !== undefined && ns > 0) return (1000 * usedNs) / ns;
  const nanoCores = numberOf(newer?.usage_nano_cores);
  return nanoCores === undefined ? undefined : nanoCores / 1e6;
}

/** A counter that decreased was reset: the rate is not known. */
function rate(older: number | undefined, newer: number | undefined, seconds: number): number | undefined {
  return older === undefined || newer === undefined || newer < older || seconds <= 0 ? undefined : (newer - older) / seconds;
}

const numberOf = (value: { readonly value?: string | undefined } | undefined): number | undefined =>
  value === undefined ? undefined : Number(value.value ?? 0);

function createdAt(items: readonly Pick<Container, 'id' | 'created_at'>[] | undefined): ReadonlyMap<string | undefined, string | undefined> {
  return new Map(items?.map(({ id, created_at: created }) => [id, created]));
}

function ageSeconds(created: ReadonlyMap<string | undefined, string | undefined>, id: string | undefined, nowMs: number): number | undefined {
  const ns = created.get(id);
  return ns === undefined ? undefined : Math.max(0, nowMs / 1000 - Number(ns) / 1e9);
}

/** Sorts in descending order, for age the youngest first, then by name. */
function sorted<T extends Use>(uses: readonly T[], sort: SortKey): readonly T[] {
  return uses.toSorted((a, b) => weight(b, sort) - weight(a, sort) || (a.name < b.name ? -1 : 1));
}

function weight(use: Use, sort: SortKey): number {
  if (sort === 'cpu') return use.cpuMillis ?? -1;
  if (sort === 'memory') return use.memoryBytes ?? -1;
  if (sort === 'processes') return use.processes ?? -1;
  if (sort === 'network') return (use.rxBytesPerSecond ?? 0) + (use.txBytesPerSecond ?? 0);
  if (sort === 'restarts') return use.restarts;
  return sort === 'age' ? -(use.ageSeconds ?? 0) : 0;
}
