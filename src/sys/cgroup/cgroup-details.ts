/**
 * Parses further cgroup files, for metrics, from v1 and v2 to one form. Pure: a function passed in returns the texts of the files.
 *
 * A value is null if the kernel does not report it. Times are nanoseconds.
 */
import { keyedTable, limitOf } from './cgroup-counters.ts';

export type DeviceIo = {
  readonly major: number;
  readonly minor: number;
  readonly readBytes: number;
  readonly writeBytes: number;
  readonly reads: number;
  readonly writes: number;
};

export type Hugepages = { readonly pageSize: string; readonly usageBytes: number; readonly maxUsageBytes: number | null };

export type MemoryDetails = {
  readonly cacheBytes: number;
  readonly mappedFileBytes: number;
  readonly activeFileBytes: number;
  readonly inactiveFileBytes: number;
  readonly kernelBytes: number | null;
  readonly maxUsageBytes: number | null;
  /** How often the limit was reached. */
  readonly limitHits: number | null;
  /** Page faults of the cgroup alone, and including descendants. v2 has only the latter. */
  readonly ownFaults: PageFaults;
  readonly allFaults: PageFaults;
};

export type Throttling = {
  readonly periods: number;
  readonly throttledPeriods: number;
  readonly throttledNs: bigint;
  /** Periods in which the quota was exceeded, and the time beyond it; 0 before Linux 5.15. */
  readonly burstPeriods: number;
  readonly burstNs: bigint;
};

export type PageFaults = { readonly minorOrMajor: number; readonly major: number };

export type CgroupDetails = {
  readonly userNs: bigint | null;
  readonly systemNs: bigint | null;
  readonly throttling: Throttling | null;
  readonly memory: MemoryDetails | null;
  /** Processes killed by the OOM killer. */
  readonly oomKills: number | null;
  /** Null if there is no limit. */
  readonly tasksMax: number | null;
  readonly hugepages: readonly Hugepages[];
  readonly devices: readonly DeviceIo[];
};

/** Returns the text of a controller's file; null if it does not exist. */
export type ReadFile = (controller: string, file: string) => string | null;

export function detailsV1(read: ReadFile, hugepageSizes: readonly string[]): CgroupDetails {
  const memoryOf = (file: string) => read('memory', `memory.${file}`);
  const stat = memoryOf('stat');
  const cpuStat = tableOf(read('cpu', 'cpu.stat'));
  return {
    userNs: bigintOf(read('cpuacct', 'cpuacct.usage_user')),
    systemNs: bigintOf(read('cpuacct', 'cpuacct.usage_sys')),
    throttling: throttlingOf(cpuStat, (key) => BigInt(cpuStat?.get(`${key}_time`) ?? 0)),
    memory: stat === null ? null : memoryV1(keyedTable(stat), memoryOf),
    oomKills: tableOf(memoryOf('oom_control'))?.get('oom_kill') ?? null,
    tasksMax: limitOf(read('pids', 'pids.max')),
    hugepages: hugepageSizes.flatMap((pageSize) => {
      const usage = read('hugetlb', `hugetlb.${pageSize}.usage_in_bytes`);
      const maxUsage = read('hugetlb', `hugetlb.${pageSize}.max_usage_in_bytes`);
      return usage === null ? [] : [{ pageSize, usageBytes: Number(usage), maxUsageBytes: numberOf(maxUsage) }];
    }),
    devices: devicesV1(read('blkio', 'blkio.throttle.io_service_bytes_recursive'), read('blkio', 'blkio.throttle.io_serviced_recursive')),
  };
}

export function detailsV2(read: ReadFile, hugepageSizes: readonly string[]): CgroupDetails {
  const memoryOf = (file: string) => read('memory', `memory.${file}`);
  const stat = memoryOf('stat');
  const cpuStat = tableOf(read('cpu', 'cpu.stat'));
  const nanoseconds = (key: string) => BigInt(cpuStat?.get(key) ?? 0) * 1000n;
  return {
    userNs: cpuStat === null ? null : nanoseconds('user_usec'),
    systemNs: cpuStat === null ? null : nanoseconds('system_usec'),
    throttling: throttlingOf(cpuStat, (key) => nanoseconds(`${key}_usec`)),
    memory: stat === null ? null : memoryV2(keyedTable(stat), memoryOf),
    oomKills: tableOf(memoryOf('events'))?.get('oom_kill') ?? null,
    tasksMax: limitOf(read('pids', 'pids.max')),
    hugepages: hugepageSizes.flatMap((pageSize) => {
      const usage = read('hugetlb', `hugetlb.${pageSize}.current`);
      return usage === null ? [] : [{ pageSize, usageBytes: Number(usage), maxUsageBytes: null }];
    }),
    devices: devicesV2(read('io', 'io.stat')),
  };
}

function throttlingOf(cpuStat: Map<string, number> | null, timeNs: (key: string) => bigint): Throttling | null {
  const periods = cpuStat?.get('nr_periods');
  if (cpuStat === null || periods === undefined) return null;
  const count = (key: string) => cpuStat.get(key) ?? 0;
  return {
    periods,
    throttledPeriods: count('nr_throttled'),
    throttledNs: timeNs('throttled'),
    burstPeriods: count('nr_bursts'),
    burstNs: timeNs('burst'),
  };
}

function memoryV1(stat: Map<string, number>, read: (file: string) => string | null): MemoryDetails {
  return {
    cacheBytes: stat.get('total_cache') ?? 0,
    mappedFileBytes: stat.get('total_mapped_file') ?? 0,
    activeFileBytes: stat.get('total_active_file') ?? 0,
    inactiveFileBytes: stat.get('total_inactive_file') ?? 0,
    kernelBytes: numberOf(read('kmem.usage_in_bytes')),
    maxUsageBytes: numberOf(read('max_usage_in_bytes')),
    limitHits: numberOf(read('failcnt')),
    ownFaults: { minorOrMajor: stat.get('pgfault') ?? 0, major: stat.get('pgmajfault') ?? 0 },
    allFaults: { minorOrMajor: stat.get('total_pgfault') ?? 0, major: stat.get('total_pgmajfault') ?? 0 },
  };
}

/** `kernel` in memory.stat exists since Linux 5.18, memory.peak since 5.19. */
function memoryV2(stat: Map<string, number>, read: (file: string) => string | null): MemoryDetails {
  const faults = { minorOrMajor: stat.get('pgfault') ?? 0, major: stat.get('pgmajfault') ?? 0 };
  return {
    cacheBytes: stat.get('file') ?? 0,
    mappedFileBytes: stat.get('file_mapped') ?? 0,
    activeFileBytes: stat.get('active_file') ?? 0,
    inactiveFileBytes: stat.get('inactive_file') ?? 0,
    kernelBytes: stat.get('kernel') ?? null,
    maxUsageBytes: numberOf(read('peak')),
    limitHits: tableOf(read('events'))?.get('max') ?? null,
    ownFaults: faults,
    allFaults: faults,
  };
}

/** Parses lines `8:0 Read 4096`; the last line has no device. */
function devicesV1(bytes: string | null, operations: string | null): DeviceIo[] {
  const [bytesOf, operationsOf] = [bytes, operations].map(
    (text) => new Map(deviceLines(text).map(([device, what, value]) => [`${device} ${what}`, value])),
  );
  const devices = new Set(deviceLines(bytes).map(([device]) => device));
  return [...devices].map((device) => ({
    ...numbersOf(device),
    readBytes: bytesOf?.get(`${device} Read`) ?? 0,
    writeBytes: bytesOf?.get(`${device} Write`) ?? 0,
    reads: operationsOf?.get(`${device} Read`) ?? 0,
    writes: operationsOf?.get(`${device} Write`) ?? 0,
  }));
}

function deviceLines(text: string | null): [string, string, number][] {
  return (text ?? '').split('\n').flatMap((line) => {
    const [device = '', what = '', value] = line.split(' ');
    return value === undefined ? [] : [[device, what, Number(value)]];
  });
}

/** Parses lines `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`; a device may have no values. */
function devicesV2(text: string | null): DeviceIo[] {
  return (text ?? '').split('\n').flatMap((line) => {
    const [device = '', ...pairs] = line.split(' ');
    if (pairs.length === 0) return [];
    const values = new Map(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), Number(pair.slice(pair.indexOf('=') + 1))]));
    const of = (key: string) => values.get(key) ?? 0;
    return [{ ...numbersOf(device), readBytes: of('rbytes'), writeBytes: of('wbytes'), reads: of('rios'), writes: of('wios') }];
  });
}

function numbersOf(device: string): { major: number; minor: number } {
  const [major, minor] = device.split(':').map(Number);
  return { major: major ?? 0, minor: minor ?? 0 };
}

const tableOf = (text: string | null) => (text === null ? null : keyedTable(text));
const numberOf = (text: string | null) => (text === null ? null : Number(text));
const bigintOf = (text: string | null) => (text === null ? null : BigInt(text));
