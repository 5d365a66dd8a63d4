/**
 * Converts resources to writes to the files of cgroup v2. Pure.
 *
 * Files: Documentation/admin-guide/cgroup-v2.rst of the kernel.
 */
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { checkSwap, cpuPeriodDefaultUs, memoryLimits, planHugepages, type ResourceChange, sharesToWrite } from './cgroup-change.ts';
import { weightOfShares } from './cpu-weight.ts';

/** Returns the writes for all fields except `unified` (cgroup-unified.ts). @throws {BerthError} FAILED_PRECONDITION for unsupported limits. */
export function planV2(change: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  return [
    ...planCpu(change),
    ...planCpuset(change),
    ...planMemory(change, facts),
    ...planHugepages(change.change, facts, { file: (pageSize, part) => `hugetlb.${pageSize}.${part}max`, unlimited: 'max' }),
  ];
}

function planCpu(update: ResourceChange): CgroupWrite[] {
  const { change, after } = update;
  const writes: CgroupWrite[] = [];
  const shares = sharesToWrite(update);
  if (shares) {
    writes.push({
      controller: 'cpu',
      file: 'cpu.weight',
      value: String(weightOfShares(shares)),
      note: `share of cpu time, from ${shares} shares`,
    });
  }
  if (change.cpuQuotaUs === undefined && change.cpuPeriodUs === undefined) return writes;
  const quota = after.cpuQuotaUs === undefined || after.cpuQuotaUs < 0 ? 'max' : String(after.cpuQuotaUs);
  return [
    ...writes,
    { controller: 'cpu', file: 'cpu.max', value: `${quota} ${after.cpuPeriodUs ?? cpuPeriodDefaultUs}`, note: 'cpu time per period' },
  ];
}

function planCpuset({ change }: ResourceChange): CgroupWrite[] {
  const writes: CgroupWrite[] = [];
  if (change.cpusetCpus) writes.push({ controller: 'cpuset', file: 'cpuset.cpus', value: change.cpusetCpus, note: 'allowed cpus' });
  if (change.cpusetMems) writes.push({ controller: 'cpuset', file: 'cpuset.mems', value: change.cpusetMems, note: 'allowed memory nodes' });
  return writes;
}

function planMemory({ change, after }: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  if (change.memoryLimitBytes === undefined && change.memorySwapLimitBytes === undefined) return [];
  const limits = memoryLimits(after);
  checkSwap(limits, facts);
  if (limits.memory === undefined || limits.total === undefined) return [];
  const memory: CgroupWrite = { controller: 'memory', file: 'memory.max', value: limitValue(limits.memory), note: 'memory' };
  if (!facts.hasSwapAccounting) return [memory];
  // v2 limits swap alone; the request limits memory plus swap.
  const swapBytes = limits.total < 0 ? -1 : limits.total - limits.memory;
  // Swap first: a lower memory limit may need the new swap space.
  return [{ controller: 'memory', file: 'memory.swap.max', value: limitValue(swapBytes), note: 'swap' }, memory];
}

const limitValue = (bytes: number): string => (bytes < 0 ? 'max' : String(bytes));
