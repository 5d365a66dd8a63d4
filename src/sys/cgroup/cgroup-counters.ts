/**
 * Parses the counter files of cgroup v1 and v2 to one form. Pure: cgroup-stats.ts reads the files.
 *
 * A text is null if the file does not exist. Times are nanoseconds, as bigint where a busy node would exceed safe integers within months.
 */

export type MemoryCounters = {
  readonly usageBytes: number;
  /** Usage without inactive file pages: the working set, which the kubelet uses for eviction. */
  readonly workingSetBytes: number;
  /** Anonymous memory. */
  readonly rssBytes: number;
  readonly pageFaults: number;
  readonly majorPageFaults: number;
  /** Limit of this cgroup, without its ancestors; null if there is none. */
  readonly limitBytes: number | null;
};

export type SwapCounters = {
  readonly usageBytes: number;
  /** Limit of swap without memory; null if there is none. */
  readonly limitBytes: number | null;
};

/** A line of a pressure file (Documentation/accounting/psi.rst). Averages are percentages. */
export type PressureLine = { readonly totalNs: bigint; readonly avg10: number; readonly avg60: number; readonly avg300: number };
export type Pressure = { readonly some: PressureLine; readonly full: PressureLine };
export type Pressures = { readonly cpu: Pressure | null; readonly memory: Pressure | null; readonly io: Pressure | null };

export type CgroupCounters = {
  readonly cpuUsageNs: bigint | null;
  readonly memory: MemoryCounters | null;
  readonly swap: SwapCounters | null;
  /** Processes and threads, including those of descendants. */
  readonly tasks: number | null;
  readonly pressure: Pressures;
};

type Text = string | null;

/** Parses memory.usage_in_bytes, memory.stat and memory.limit_in_bytes. */
export function parseMemoryV1(usage: Text, stat: Text, limit: Text): MemoryCounters | null {
  if (usage === null || stat === null) return null;
  return {
    ...used(Number(usage), keyedValue(stat, 'total_inactive_file')),
    rssBytes: keyedValue(stat, 'total_rss'),
    pageFaults: keyedValue(stat, 'total_pgfault'),
    majorPageFaults: keyedValue(stat, 'total_pgmajfault'),
    limitBytes: limitOf(limit),
  };
}

/** Parses memory.current, memory.stat and memory.max. */
export function parseMemoryV2(current: Text, stat: Text, max: Text): MemoryCounters | null {
  if (current === null || stat === null) return null;
  return {
    ...used(Number(current), keyedValue(stat, 'inactive_file')),
    rssBytes: keyedValue(stat, 'anon'),
    pageFaults: keyedValue(stat, 'pgfault'),
    majorPageFaults: keyedValue(stat, 'pgmajfault'),
    limitBytes: limitOf(max),
  };
}

function used(usageBytes: number, inactiveBytes: number) {
  return { usageBytes, workingSetBytes: Math.max(0, usageBytes - inactiveBytes) };
}

/**
 * Parses memory.memsw.usage_in_bytes and its limit. v1 counts memory and swap together, so memory is subtracted; the two are not read at the same time.
 */
export function parseSwapV1(usage: Text, limit: Text, memory: MemoryCounters | null): SwapCounters | null {
  if (usage === null || memory === null) return null;
  const both = limitOf(limit);
  return {
    usageBytes: Math.max(0, Number(usage) - memory.usageBytes),
    limitBytes: both === null ? null : Math.max(0, both - (memory.limitBytes ?? 0)),
  };
}

/** Parses memory.swap.current and memory.swap.max. */
export function parseSwapV2(current: Text, max: Text): SwapCounters | null {
  return current === null ? null : { usageBytes: Number(current), limitBytes: limitOf(max) };
}

/** On v1, the kernel's value for no limit is the largest number of whole pages. */
const unlimitedBytes = 2 ** 62;

/** Returns a limit in bytes; null for no limit: `max`, a number larger than any memory, or a missing file. */
export function limitOf(text: Text): number | null {
  if (text === null || text.trim() === 'max') return null;
  const bytes = Number(text);
  return bytes >= unlimitedBytes ? null : bytes;
}

/** Parses cpu.stat of v2, which counts microseconds, to nanoseconds. */
export function cpuUsageV2(cpuStat: Text): bigint | null {
  const usec = cpuStat === null ? undefined : /^usage_usec (\d+)$/m.exec(cpuStat)?.[1];
  return usec === undefined ? null : BigInt(usec) * 1000n;
}

/**
 * Parses a pressure file, whose totals are microseconds. Null if it is missing or empty: accounting can be disabled per cgroup.
 * Kernels before 5.13 have no `full` line for cpu: its values are 0.
 */
export function parsePressure(text: Text): Pressure | null {
  const some = text === null ? null : pressureLine(text, 'some');
  if (text === null || some === null) return null;
  return { some, full: pressureLine(text, 'full') ?? { totalNs: 0n, avg10: 0, avg60: 0, avg300: 0 } };
}

function pressureLine(text: string, kind: 'some' | 'full'): PressureLine | null {
  const match = new RegExp(`^${kind} avg10=([\\d.]+) avg60=([\\d.]+) avg300=([\\d.]+) total=(\\d+)$`, 'm').exec(text);
  if (match === null) return null;
  const [, avg10, avg60, avg300, total = '0'] = match;
  return { totalNs: BigInt(total) * 1000n, avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300) };
}

/** Returns one value of a flat keyed file, or 0. Searches the text without splitting it, because only a few of many lines are used. */
function keyedValue(text: string, key: string): number {
  const inner = text.indexOf(`\n${key} `);
  if (inner < 0 && !text.startsWith(`${key} `)) return 0;
  const start = inner + 1 + key.length + 1;
  const end = text.indexOf('\n', start);
  return Number(text.slice(start, end < 0 ? undefined : end));
}

/** Parses a flat keyed file: `key value` lines. */
export function keyedTable(text: string): Map<string, number> {
  const table = new Map<string, number>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) table.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return table;
}

/** Adds up several cgroups, for a pod without its own cgroup. Limits and pressure cannot be added. */
export function addUp(parts: readonly CgroupCounters[]): CgroupCounters {
  const all = <Value>(pick: (part: CgroupCounters) => Value | null): Value[] => parts.map(pick).filter((value) => value !== null);
  const total = (numbers: readonly number[]) => numbers.reduce((sum, number) => sum + number, 0);
  const memory = all((part) => part.memory);
  const swap = all((part) => part.swap);
  const sumOf = (pick: (each: MemoryCounters) => number) => total(memory.map(pick));
  return {
    cpuUsageNs: all((part) => part.cpuUsageNs).reduce((sum, usage) => sum + usage, 0n),
    memory: {
      usageBytes: sumOf((each) => each.usageBytes),
      workingSetBytes: sumOf((each) => each.workingSetBytes),
      rssBytes: sumOf((each) => each.rssBytes),
      pageFaults: sumOf((each) => each.pageFaults),
      majorPageFaults: sumOf((each) => each.majorPageFaults),
      limitBytes: null,
    },
    swap: swap.length === 0 ? null : { usageBytes: total(swap.map((each) => each.usageBytes)), limitBytes: null },
    tasks: total(all((part) => part.tasks)),
    pressure: { cpu: null, memory: null, io: null },
  };
}
