/**
 * What the counter files of cgroups say, v1 and v2, in one form. Pure: cgroup-stats.ts reads the files.
 *
 * Every text may be null: the file is not there. Times are nanoseconds, as bigint where a busy node would leave the safe integers within months.
 */

export type MemoryCounters = {
  readonly usageBytes: number;
  /** Use without the file pages that were not used lately: what the kubelet calls the working set, and evicts by. */
  readonly workingSetBytes: number;
  /** Anonymous memory. */
  readonly rssBytes: number;
  readonly pageFaults: number;
  readonly majorPageFaults: number;
  /** Of this very cgroup; null: none. */
  readonly limitBytes: number | null;
};

export type SwapCounters = {
  readonly usageBytes: number;
  /** Swap alone; null: no limit. */
  readonly limitBytes: number | null;
};

/** A line of a pressure file (Documentation/accounting/psi.rst). Averages in per cent. */
export type PressureLine = { readonly totalNs: bigint; readonly avg10: number; readonly avg60: number; readonly avg300: number };
export type Pressure = { readonly some: PressureLine; readonly full: PressureLine };
export type Pressures = { readonly cpu: Pressure | null; readonly memory: Pressure | null; readonly io: Pressure | null };

export type CgroupCounters = {
  readonly cpuUsageNs: bigint | null;
  readonly memory: MemoryCounters | null;
  readonly swap: SwapCounters | null;
  /** Processes and threads, those of cgroups below included. */
  readonly tasks: number | null;
  readonly pressure: Pressures;
};

type Text = string | null;

/** memory.usage_in_bytes, memory.stat, memory.limit_in_bytes. */
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

/** memory.current, memory.stat, memory.max. */
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

/** v1 counts memory and swap together: memory.memsw.usage_in_bytes and its limit, less those of memory. The two are not read at one moment. */
export function parseSwapV1(usage: Text, limit: Text, memory: MemoryCounters | null): SwapCounters | null {
  if (usage === null || memory === null) return null;
  const both = limitOf(limit);
  return {
    usageBytes: Math.max(0, Number(usage) - memory.usageBytes),
    limitBytes: both === null ? null : Math.max(0, both - (memory.limitBytes ?? 0)),
  };
}

/** memory.swap.current, memory.swap.max. */
export function parseSwapV2(current: Text, max: Text): SwapCounters | null {
  return current === null ? null : { usageBytes: Number(current), limitBytes: limitOf(max) };
}

/** The kernel's "no limit" on v1 is the greatest number of whole pages. */
const unlimitedBytes = 2 ** 62;

/** A limit in bytes, null for none: `max`, a number beyond all memory, or no such file. */
export function limitOf(text: Text): number | null {
  if (text === null || text.trim() === 'max') return null;
  const bytes = Number(text);
  return bytes >= unlimitedBytes ? null : bytes;
}

/** cpu.stat of v2 counts microseconds. */
export function cpuUsageV2(cpuStat: Text): bigint | null {
  const usec = cpuStat === null ? undefined : /^usage_usec (\d+)$/m.exec(cpuStat)?.[1];
  return usec === undefined ? null : BigInt(usec) * 1000n;
}

/**
 * A pressure file; its totals are microseconds. null for one that is not there, or that says nothing (accounting can be switched off per cgroup).
 * Kernels before 5.13 have no `full` line for cpu: nothing was ever fully stalled then.
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

/** One value of a flat keyed file, 0 when it is not there: a few of many lines, looked for without taking the text apart. */
function keyedValue(text: string, key: string): number {
  const inner = text.indexOf(`\n${key} `);
  if (inner < 0 && !text.startsWith(`${key} `)) return 0;
  const start = inner + 1 + key.length + 1;
  const end = text.indexOf('\n', start);
  return Number(text.slice(start, end < 0 ? undefined : end));
}

/** All pairs of a flat keyed file: `key value` lines. */
export function keyedTable(text: string): Map<string, number> {
  const table = new Map<string, number>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) table.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return table;
}

/** Several cgroups taken as one, for a pod that has none of its own. Limits and pressure of several say nothing together. */
export function addUp(parts: readonly CgroupCounters[]): CgroupCounters {
  const all = <Value>(pick: (part: CgroupCounters) => Value | null): Value[] => parts.map(pick).filter((value) => value !== null);
  const total = (numbers: readonly number[]) => numbers.reduce((sum, number) => sum + number, 0);
  const memory = all((part) => part.memory);
  const swap = all((part) => part.swap);
  const over = (pick: (each: MemoryCounters) => number) => total(memory.map(pick));
  return {
    cpuUsageNs: all((part) => part.cpuUsageNs).reduce((sum, usage) => sum + usage, 0n),
    memory: {
      usageBytes: over((each) => each.usageBytes),
      workingSetBytes: over((each) => each.workingSetBytes),
      rssBytes: over((each) => each.rssBytes),
      pageFaults: over((each) => each.pageFaults),
      majorPageFaults: over((each) => each.majorPageFaults),
      limitBytes: null,
    },
    swap: swap.length === 0 ? null : { usageBytes: total(swap.map((each) => each.usageBytes)), limitBytes: null },
    tasks: total(all((part) => part.tasks)),
    pressure: { cpu: null, memory: null, io: null },
  };
}
