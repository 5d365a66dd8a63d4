import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cgroupFiles } from '../../../test/support/cgroup-files.ts';
import { containerView, sandboxView } from '../../../test/support/cri-fakes.ts';
import type { SandboxMetrics } from '../../engine/usage/pod-metrics.ts';
import { type CgroupCounters, parseMemoryV1, parsePressure } from '../../sys/cgroup/cgroup-counters.ts';
import { detailsV1 } from '../../sys/cgroup/cgroup-details.ts';
import type { Metric, PodSandboxMetrics } from '../wire/messages.ts';
import { metricDescriptors, podSandboxMetrics } from './metrics-to-response.ts';

const files = cgroupFiles(1);
const pressure = parsePressure(files('cpu.pressure'));
const counters: CgroupCounters = {
  cpuUsageNs: 3_999_999_999n,
  memory: parseMemoryV1(files('memory.usage_in_bytes'), files('memory.stat'), files('memory.limit_in_bytes')),
  swap: null,
  tasks: 3,
  pressure: { cpu: pressure, memory: pressure, io: pressure },
};
const read = detailsV1((_, file) => files(file), []);
const devices = read.devices.map((device) => ({ ...device, name: `/dev/${device.minor}` }));
const cgroup = { ...read, devices, hugepages: [{ pageSize: '2MB', usageBytes: 0, maxUsageBytes: 0 }] };
const { record, status } = containerView(
  'c1',
  {},
  { startedAtNs: '1795246692999999999', resources: { cpuQuotaUs: 20_000, memorySwapLimitBytes: -1 } },
);
const packets = (bytes: number) => ({ bytes, packets: bytes + 1, errors: bytes + 2, dropped: bytes + 3 });

const details: SandboxMetrics = {
  stats: {
    record: sandboxView('s1').record,
    atNs: '1795246700000000000',
    counters,
    nanoCores: null,
    interfaces: [{ name: 'eth0', receive: packets(10), transmit: packets(20) }],
    containers: [],
  },
  pod: { cgroupPath: '/kubepods/podu1', cgroup },
  containers: [
    {
      stats: { record, atNs: '1795246700000000000', counters, nanoCores: null, writableLayer: { bytes: 8192, inodes: 2, atNs: '1' } },
      status,
      cgroup,
      processes: { processes: 2, fds: 9, sockets: 1 },
      openFilesMax: 1024,
    },
  ],
  filesystem: { device: '/dev/sda1', totalBytes: 1000, inodes: 100, freeInodes: 60 },
};

const all = ({ metrics = [], container_metrics = [] }: PodSandboxMetrics): Metric[] => [
  ...metrics,
  ...container_metrics.flatMap((each) => each.metrics ?? []),
];
const message = podSandboxMetrics(details);
const ofContainer = (name: string) => message.container_metrics?.[0]?.metrics?.filter((metric) => metric.name === name);

/** The metrics required by the conformance suite of Kubernetes 1.37, and further ones of cAdvisor. */
const wanted =
  `blkio_device_usage_total cpu_cfs_burst_periods_total cpu_cfs_burst_seconds_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total cpu_system_seconds_total
cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total
fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen memory_cache memory_failcnt
memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_total_active_file_bytes memory_total_inactive_file_bytes memory_usage_bytes
memory_working_set_bytes network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total
network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_dropped_total
network_transmit_packets_total oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total
processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares spec_memory_limit_bytes spec_memory_reservation_limit_bytes
spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft`
    .split(/\s+/)
    .map((name) => `container_${name}`);

test('every metric that Kubernetes requires is described once, with help and labels', () => {
  const descriptors = metricDescriptors();
  assert.deepEqual(descriptors.map(({ name }) => name).sort(), wanted);
  for (const { name, help, label_keys } of descriptors) assert.ok(help && label_keys?.length, name);
});

test('every described metric has a value if the kernel provides all counters', () => {
  const names = new Set(all(message).map(({ name }) => name));
  assert.deepEqual(
    wanted.filter((name) => !names.has(name)),
    [],
  );
});

test('each metric has as many label values as label keys', () => {
  const keys = new Map(metricDescriptors().map(({ name, label_keys }) => [name, label_keys?.length]));
  for (const { name, label_values } of all(message)) assert.equal(label_values?.length, keys.get(name), name);
});

test('the combination of name and labels is unique', () => {
  const names = all(message).map(({ name, label_values }) => JSON.stringify([name, label_values]));
  assert.equal(new Set(names).size, names.length);
});

test('seconds are truncated to integers in value, and exact in double_value', () => {
  const values = ['cpu_usage_seconds_total', 'pressure_cpu_waiting_seconds_total', 'start_time_seconds', 'last_seen'].map(
    (name) => ofContainer(`container_${name}`)?.[0]?.value?.value,
  );
  assert.deepEqual(values, ['3', '534', '1795246692', '1795246700']);
  assert.equal(ofContainer('container_cpu_usage_seconds_total')?.[0]?.double_value?.value, 3.999999999);
});

test("a container has cAdvisor's labels", () => {
  assert.deepEqual(ofContainer('container_memory_rss'), [
    {
      name: 'container_memory_rss',
      metric_type: 'GAUGE',
      label_values: ['main', '/kubepods/podu1/c1', 'docker.io/library/busybox:latest', 'c1', 'default', 'web'],
      value: { value: '1310720' },
      double_value: { value: 1310720 },
    },
  ]);
});

test("the pod's network metrics have the container name POD, the pod's cgroup metrics none", () => {
  const [network] = message.metrics?.filter(({ name }) => name === 'container_network_transmit_packets_dropped_total') ?? [];
  assert.deepEqual([network?.label_values, network?.value?.value], [['POD', '/kubepods/podu1', '', 's1', 'default', 'web', 'eth0'], '23']);
  const [memory] = message.metrics?.filter(({ name }) => name === 'container_memory_rss') ?? [];
  assert.deepEqual(memory?.label_values, ['', '/kubepods/podu1', '', '', 'default', 'web']);
});

test('unknown values are omitted, and absent limits are 0', () => {
  assert.deepEqual(
    ['threads_max', 'spec_memory_swap_limit_bytes', 'spec_memory_limit_bytes', 'spec_cpu_quota'].map(
      (name) => ofContainer(`container_${name}`)?.[0]?.value?.value,
    ),
    ['0', '0', '67108864', '20000'],
  );
  const silent = { ...cgroup, memory: null, oomKills: null, devices: [] };
  const [container] = details.containers;
  assert.ok(container);
  const names = all(podSandboxMetrics({ ...details, pod: null, containers: [{ ...container, cgroup: silent }] })).map(({ name }) => name);
  assert.ok(
    !names.includes('container_memory_cache') && !names.includes('container_oom_events_total') && !names.includes('container_fs_reads_total'),
  );
});
