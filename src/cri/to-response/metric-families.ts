/**
 * The metrics of pods and containers, with cAdvisor's names and labels: descriptions and values. Pure.
 *
 * The kubelet drops metrics without a description, and a scrape fails on duplicate names and labels. Omitted are metrics of cAdvisor that current
 * kernels do not provide: sectors, merged and queued requests of block devices, load averages, task states.
 */
import type { ContainerMetrics, LayerFilesystem, SandboxMetrics } from '../../engine/usage/pod-metrics.ts';

type CgroupCounters = ContainerMetrics['stats']['counters'];
type CgroupDetails = ContainerMetrics['cgroup'];
type DeviceIo = CgroupDetails['devices'][number];
type Pressure = NonNullable<CgroupCounters['pressure']['cpu']>;
type InterfaceCounters = NonNullable<SandboxMetrics['stats']['interfaces']>[number];

/** The labels of every metric, in this order. */
const commonLabels = ['container', 'id', 'image', 'name', 'namespace', 'pod'] as const;

/** Times are exact nanoseconds; the encoders convert them to seconds. null means unknown. */
type Value = MetricValue | null;
export type MetricValue = number | bigint | { readonly ns: bigint };
type Sample = { readonly labels?: readonly string[]; readonly value: Value };

export type MetricFamily = {
  readonly name: string;
  readonly help: string;
  readonly type: 'COUNTER' | 'GAUGE';
  /** Starts with the common labels. */
  readonly labels: readonly string[];
};
type Family<Source> = MetricFamily & { readonly samples: (source: Source) => Value | readonly Sample[] };

/** One value of a family, with its label values in order. */
export type Series = { readonly family: MetricFamily; readonly labels: readonly string[]; readonly value: MetricValue };

/** The counters of a cgroup of a pod or a container. */
type Usage = { readonly counters: CgroupCounters; readonly cgroup: CgroupDetails };
type ContainerSource = ContainerMetrics & { readonly filesystem: LayerFilesystem };

const usageFamilies: readonly Family<Usage>[] = [
  counter(
    'container_cpu_usage_seconds_total',
    'CPU time used, in seconds.',
    ({ counters }) => [{ labels: ['total'], value: seconds(counters.cpuUsageNs) }],
    ['cpu'],
  ),
  counter('container_cpu_user_seconds_total', 'CPU time used in user mode, in seconds.', ({ cgroup }) => seconds(cgroup.userNs)),
  counter('container_cpu_system_seconds_total', 'CPU time used in the kernel, in seconds.', ({ cgroup }) => seconds(cgroup.systemNs)),
  counter('container_cpu_cfs_periods_total', 'Elapsed CPU quota periods.', ({ cgroup }) => cgroup.throttling?.periods ?? null),
  counter(
    'container_cpu_cfs_throttled_periods_total',
    'CPU quota periods in which the container was throttled.',
    ({ cgroup }) => cgroup.throttling?.throttledPeriods ?? null,
  ),
  counter('container_cpu_cfs_throttled_seconds_total', 'Time for which the container was throttled by the CPU quota, in seconds.', ({ cgroup }) =>
    seconds(cgroup.throttling?.throttledNs),
  ),
  counter(
    'container_cpu_cfs_burst_periods_total',
    'CPU quota periods in which burst was used.',
    ({ cgroup }) => cgroup.throttling?.burstPeriods ?? null,
  ),
  counter('container_cpu_cfs_burst_seconds_total', 'CPU time used above the quota (burst), in seconds.', ({ cgroup }) =>
    seconds(cgroup.throttling?.burstNs),
  ),
  gauge('container_memory_usage_bytes', 'Memory in use, including the page cache, in bytes.', ({ counters }) => counters.memory?.usageBytes ?? null),
  gauge(
    'container_memory_working_set_bytes',
    'Memory in use, without inactive file pages, in bytes.',
    ({ counters }) => counters.memory?.workingSetBytes ?? null,
  ),
  gauge('container_memory_rss', 'Anonymous memory, in bytes.', ({ counters }) => counters.memory?.rssBytes ?? null),
  gauge('container_memory_cache', 'Page cache, in bytes.', ({ cgroup }) => cgroup.memory?.cacheBytes ?? null),
  gauge('container_memory_total_active_file_bytes', 'Active file pages, in bytes.', ({ cgroup }) => cgroup.memory?.activeFileBytes ?? null),
  gauge('container_memory_total_inactive_file_bytes', 'Inactive file pages, in bytes.', ({ cgroup }) => cgroup.memory?.inactiveFileBytes ?? null),
  gauge('container_memory_mapped_file', 'Memory used by mapped files, in bytes.', ({ cgroup }) => cgroup.memory?.mappedFileBytes ?? null),
  gauge('container_memory_kernel_usage', 'Kernel memory charged to the container, in bytes.', ({ cgroup }) => cgroup.memory?.kernelBytes ?? null),
  gauge(
    'container_memory_swap',
    'Swap in use, in bytes; 0 if the kernel does not account for swap.',
    ({ counters }) => counters.swap?.usageBytes ?? 0,
  ),
  gauge('container_memory_max_usage_bytes', 'Maximum memory usage, in bytes.', ({ cgroup }) => cgroup.memory?.maxUsageBytes ?? null),
  counter('container_memory_failcnt', 'Number of times the memory limit was reached.', ({ cgroup }) => cgroup.memory?.limitHits ?? null),
  counter('container_memory_failures_total', 'Page faults, by type and scope: the container itself or its whole cgroup hierarchy.', pageFaults, [
    'failure_type',
    'scope',
  ]),
  counter('container_oom_events_total', 'Processes killed by the OOM killer.', ({ cgroup }) => cgroup.oomKills),
  gauge(
    'container_hugetlb_usage_bytes',
    'Huge page usage in bytes, by page size.',
    ({ cgroup }) => cgroup.hugepages.map(({ pageSize, usageBytes }) => ({ labels: [pageSize], value: usageBytes })),
    ['pagesize'],
  ),
  gauge(
    'container_hugetlb_max_usage_bytes',
    'Maximum huge page usage in bytes, by page size.',
    ({ cgroup }) => cgroup.hugepages.map(({ pageSize, maxUsageBytes }) => ({ labels: [pageSize], value: maxUsageBytes })),
    ['pagesize'],
  ),
  counter(
    'container_fs_reads_total',
    'Reads from block devices.',
    perDevice((each) => each.reads),
    ['device'],
  ),
  counter(
    'container_fs_writes_total',
    'Writes to block devices.',
    perDevice((each) => each.writes),
    ['device'],
  ),
  counter(
    'container_fs_reads_bytes_total',
    'Bytes read from block devices.',
    perDevice((each) => each.readBytes),
    ['device'],
  ),
  counter(
    'container_fs_writes_bytes_total',
    'Bytes written to block devices.',
    perDevice((each) => each.writeBytes),
    ['device'],
  ),
  counter('container_blkio_device_usage_total', 'Bytes transferred, by block device and direction.', directions, [
    'device',
    'major',
    'minor',
    'operation',
  ]),
  ...pressureFamilies('cpu', ({ counters }) => counters.pressure.cpu),
  ...pressureFamilies('memory', ({ counters }) => counters.pressure.memory),
  ...pressureFamilies('io', ({ counters }) => counters.pressure.io),
];

function pressureFamilies(what: string, of: (usage: Usage) => Pressure | null): Family<Usage>[] {
  return [
    counter(`container_pressure_${what}_waiting_seconds_total`, `Time during which at least one task waited for ${what}, in seconds.`, (usage) =>
      seconds(of(usage)?.some.totalNs),
    ),
    counter(`container_pressure_${what}_stalled_seconds_total`, `Time during which all tasks waited for ${what}, in seconds.`, (usage) =>
      seconds(of(usage)?.full.totalNs),
    ),
  ];
}

const containerFamilies: readonly Family<ContainerSource>[] = [
  gauge(
    'container_fs_usage_bytes',
    "Disk usage of the container's writable layer, in bytes; 0 until it is measured.",
    ({ stats, filesystem }) => onDisk(filesystem, stats.writableLayer?.bytes ?? 0),
    ['device'],
  ),
  gauge(
    'container_fs_limit_bytes',
    'Size of the file system of the writable layer, in bytes.',
    ({ filesystem }) => onDisk(filesystem, filesystem.totalBytes),
    ['device'],
  ),
  gauge('container_fs_inodes_total', 'Inodes of the file system of the writable layer.', ({ filesystem }) => onDisk(filesystem, filesystem.inodes), [
    'device',
  ]),
  gauge(
    'container_fs_inodes_free',
    'Free inodes of the file system of the writable layer.',
    ({ filesystem }) => onDisk(filesystem, filesystem.freeInodes),
    ['device'],
  ),
  gauge('container_processes', 'Number of processes.', ({ processes }) => processes.processes),
  gauge('container_threads', 'Number of threads in all processes.', ({ stats }) => stats.counters.tasks),
  gauge('container_threads_max', 'Limit on the number of threads; 0 means no limit.', ({ cgroup }) => cgroup.tasksMax ?? 0),
  gauge('container_file_descriptors', 'Open files of all processes.', ({ processes }) => processes.fds),
  gauge('container_sockets', 'Open sockets of all processes.', ({ processes }) => processes.sockets),
  gauge(
    'container_ulimits_soft',
    "Soft ulimits of the container's first process.",
    ({ openFilesMax }) => [{ labels: ['max_open_files'], value: openFilesMax }],
    ['ulimit'],
  ),
  gauge('container_start_time_seconds', 'Start time of the container, in seconds since 1970.', ({ status }) =>
    seconds(BigInt(status.startedAtNs ?? 0)),
  ),
  gauge('container_last_seen', 'Time of this reading, in seconds since 1970.', ({ stats }) => seconds(BigInt(stats.atNs))),
  gauge('container_spec_cpu_period', 'Period of the CPU quota, in microseconds.', ({ status }) => status.resources.cpuPeriodUs ?? 100_000),
  gauge('container_spec_cpu_quota', 'CPU quota per period, in microseconds.', ({ status }) => positive(status.resources.cpuQuotaUs)),
  gauge('container_spec_cpu_shares', 'CPU shares of the container.', ({ status }) => status.resources.cpuShares ?? 1024),
  gauge('container_spec_memory_limit_bytes', 'Memory limit, in bytes; 0 means no limit.', ({ stats }) => stats.counters.memory?.limitBytes ?? 0),
  gauge('container_spec_memory_reservation_limit_bytes', 'Memory reservation, in bytes; 0 means none.', () => 0),
  gauge(
    'container_spec_memory_swap_limit_bytes',
    'Limit on memory plus swap, in bytes; 0 means no limit.',
    ({ status }) => positive(status.resources.memorySwapLimitBytes) ?? 0,
  ),
];

const networkFamilies: readonly Family<readonly InterfaceCounters[]>[] = (['receive', 'transmit'] as const).flatMap((direction) => {
  const family = (name: string, help: string, pick: (packets: InterfaceCounters['receive']) => number) =>
    counter<readonly InterfaceCounters[]>(
      `container_network_${direction}_${name}_total`,
      `${help}, by interface of the pod.`,
      (interfaces) => interfaces.map((each) => ({ labels: [each.name], value: pick(each[direction]) })),
      ['interface'],
    );
  const verb = direction === 'receive' ? 'received' : 'sent';
  return [
    family('bytes', `Bytes ${verb}`, (packets) => packets.bytes),
    family('packets', `Packets ${verb}`, (packets) => packets.packets),
    family('packets_dropped', `Packets dropped instead of being ${verb}`, (packets) => packets.dropped),
    family('errors', `Errors while packets were ${verb}`, (packets) => packets.errors),
  ];
});

/** All families, in the order of the output. */
export const metricFamilies: readonly MetricFamily[] = [...usageFamilies, ...containerFamilies, ...networkFamilies];

/**
 * The series of a sandbox. `own` has its network, with the container name POD, and its cgroup, with an empty container name; `containers` are by id.
 */
export type SandboxSeries = { readonly own: readonly Series[]; readonly containers: ReadonlyMap<string, readonly Series[]> };

export function sandboxSeries({ stats, pod, containers, filesystem }: SandboxMetrics): SandboxSeries {
  const { record, counters, interfaces } = stats;
  const { namespace, name } = record.spec.metadata;
  const labelsOf = (container: string, id: string, image: string, containerId: string) => [container, id, image, containerId, namespace, name];
  const network = seriesOf(networkFamilies, interfaces ?? [], labelsOf('POD', pod?.cgroupPath ?? '', '', record.id));
  const usage =
    pod === null || counters === null ? [] : seriesOf(usageFamilies, { counters, cgroup: pod.cgroup }, labelsOf('', pod.cgroupPath, '', ''));
  const ofContainer = (details: ContainerMetrics): [string, Series[]] => {
    const { id, cgroupPath, image, spec } = details.stats.record;
    const labels = labelsOf(spec.metadata.name, cgroupPath, image.name, id);
    const used = seriesOf(usageFamilies, { counters: details.stats.counters, cgroup: details.cgroup }, labels);
    return [id, [...used, ...seriesOf(containerFamilies, { ...details, filesystem }, labels)]];
  };
  return { own: [...network, ...usage], containers: new Map(containers.map(ofContainer)) };
}

function seriesOf<Source>(families: readonly Family<Source>[], source: Source, common: readonly string[]): Series[] {
  return families.flatMap((family) => {
    const samples = family.samples(source);
    const list: readonly Sample[] = isList(samples) ? samples : [{ value: samples }];
    return list.flatMap(({ labels = [], value }) => (value === null ? [] : [{ family, labels: [...common, ...labels], value }]));
  });
}

const isList = (samples: Value | readonly Sample[]): samples is readonly Sample[] => Array.isArray(samples);

function counter<Source>(name: string, help: string, samples: Family<Source>['samples'], labels: readonly string[] = []): Family<Source> {
  return { name, help, type: 'COUNTER', labels: [...commonLabels, ...labels], samples };
}

function gauge<Source>(name: string, help: string, samples: Family<Source>['samples'], labels: readonly string[] = []): Family<Source> {
  return { name, help, type: 'GAUGE', labels: [...commonLabels, ...labels], samples };
}

function pageFaults({ cgroup: { memory } }: Usage): Sample[] {
  if (memory === null) return [];
  return [
    { labels: ['pgfault', 'container'], value: memory.ownFaults.minorOrMajor },
    { labels: ['pgfault', 'hierarchy'], value: memory.allFaults.minorOrMajor },
    { labels: ['pgmajfault', 'container'], value: memory.ownFaults.major },
    { labels: ['pgmajfault', 'hierarchy'], value: memory.allFaults.major },
  ];
}

function perDevice(pick: (device: DeviceIo) => number): (usage: Usage) => Sample[] {
  return ({ cgroup }) => cgroup.devices.map((device) => ({ labels: [device.name], value: pick(device) }));
}

function directions({ cgroup }: Usage): Sample[] {
  return cgroup.devices.flatMap((device) => {
    const labels = [device.name, String(device.major), String(device.minor)];
    return [
      { labels: [...labels, 'Read'], value: device.readBytes },
      { labels: [...labels, 'Write'], value: device.writeBytes },
    ];
  });
}

const onDisk = ({ device }: LayerFilesystem, value: Value): Sample[] => [{ labels: [device], value }];

const seconds = (ns: bigint | null | undefined): Value => (ns === null || ns === undefined ? null : { ns });

/** 0 and -1 mean no limit. */
const positive = (value: number | undefined): Value => (value !== undefined && value > 0 ? value : null);
