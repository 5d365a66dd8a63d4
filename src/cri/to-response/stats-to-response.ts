/**
 * Converts the resource usage of containers and sandboxes to CRI messages. Pure.
 *
 * Every part has a timestamp, even without a value. Values that the kernel does not count are omitted instead of 0.
 */
import type { ContainerStats, SandboxStats } from '../../engine/usage/stats.ts';
import type * as cri from '../wire/messages.ts';

type CgroupCounters = ContainerStats['counters'];
type SwapCounters = NonNullable<CgroupCounters['swap']>;
type Pressure = NonNullable<CgroupCounters['pressure']['cpu']>;
type InterfaceCounters = NonNullable<SandboxStats['interfaces']>[number];

/** @param storageRoot the directory of the writable layers, used as mountpoint in all responses. */
export function containerStats(stats: ContainerStats, storageRoot: string): cri.ContainerStats {
  const { record, atNs, counters, writableLayer } = stats;
  const { metadata, labels, annotations } = record.spec;
  return {
    attributes: { id: record.id, metadata, labels, annotations },
    cpu: cpuUsage(atNs, counters, stats.nanoCores),
    memory: memoryUsage(atNs, counters),
    swap: swapUsage(atNs, counters.swap),
    writable_layer: {
      timestamp: writableLayer?.atNs ?? atNs,
      fs_id: { mountpoint: storageRoot },
      used_bytes: amount(writableLayer?.bytes),
      inodes_used: amount(writableLayer?.inodes),
    },
    io: ioUsage(atNs, counters),
  };
}

export function podSandboxStats(stats: SandboxStats, storageRoot: string): cri.PodSandboxStats {
  const { record, atNs, counters } = stats;
  const { metadata, labels, annotations } = record.spec;
  const own = counters && {
    cpu: cpuUsage(atNs, counters, stats.nanoCores),
    memory: memoryUsage(atNs, counters),
    process: { timestamp: atNs, process_count: amount(counters.tasks) },
    io: ioUsage(atNs, counters),
  };
  return {
    attributes: { id: record.id, metadata, labels, annotations },
    linux: {
      ...own,
      network: stats.interfaces === null ? undefined : networkUsage(atNs, stats.interfaces),
      containers: stats.containers.map((each) => containerStats(each, storageRoot)),
    },
  };
}

function cpuUsage(timestamp: string, { cpuUsageNs, pressure }: CgroupCounters, nanoCores: number | null): cri.CpuUsage {
  return { timestamp, usage_core_nano_seconds: amount(cpuUsageNs), usage_nano_cores: amount(nanoCores), psi: psiStats(pressure.cpu) };
}

function memoryUsage(timestamp: string, { memory, pressure }: CgroupCounters): cri.MemoryUsage {
  const psi = psiStats(pressure.memory);
  if (memory === null) return { timestamp, psi };
  const { limitBytes, workingSetBytes } = memory;
  return {
    timestamp,
    working_set_bytes: amount(workingSetBytes),
    available_bytes: limitBytes === null ? undefined : amount(Math.max(0, limitBytes - workingSetBytes)),
    usage_bytes: amount(memory.usageBytes),
    rss_bytes: amount(memory.rssBytes),
    page_faults: amount(memory.pageFaults),
    major_page_faults: amount(memory.majorPageFaults),
    psi,
  };
}

function swapUsage(timestamp: string, swap: SwapCounters | null): cri.SwapUsage | undefined {
  if (swap === null) return undefined;
  const { usageBytes, limitBytes } = swap;
  return {
    timestamp,
    swap_usage_bytes: amount(usageBytes),
    swap_available_bytes: limitBytes === null ? undefined : amount(Math.max(0, limitBytes - usageBytes)),
  };
}

function ioUsage(timestamp: string, { pressure }: CgroupCounters): cri.IoUsage | undefined {
  return pressure.io === null ? undefined : { timestamp, psi: psiStats(pressure.io) };
}

function psiStats(pressure: Pressure | null): cri.PsiStats | undefined {
  return pressure === null ? undefined : { Full: psiData(pressure.full), Some: psiData(pressure.some) };
}

function psiData({ totalNs, avg10, avg60, avg300 }: Pressure['some']): cri.PsiData {
  return { Total: String(totalNs), Avg10: avg10, Avg60: avg60, Avg300: avg300 };
}

/** The kubelet takes the pod's network usage from the default interface, which is `eth0` in Kubernetes networks. */
function networkUsage(timestamp: string, counters: readonly InterfaceCounters[]): cri.NetworkUsage {
  const interfaces = counters.map(interfaceUsage);
  return { timestamp, default_interface: interfaces.find(({ name }) => name === 'eth0') ?? interfaces[0], interfaces };
}

function interfaceUsage({ name, receive, transmit }: InterfaceCounters): cri.NetworkInterfaceUsage {
  return {
    name,
    rx_bytes: amount(receive.bytes),
    rx_errors: amount(receive.errors),
    tx_bytes: amount(transmit.bytes),
    tx_errors: amount(transmit.errors),
  };
}

/** Returns undefined for an unknown value. */
function amount(value: number | bigint | null | undefined): cri.UInt64Value | undefined {
  return value === null || value === undefined ? undefined : { value: String(value) };
}
