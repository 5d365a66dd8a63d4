/**
 * Converts resources to writes to the files of cgroup v1 controllers. Pure.
 *
 * Files: Documentation/admin-guide/cgroup-v1/ and Documentation/scheduler/sched-bwc.rst of the kernel.
 */
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import { checkSwap, cpuPeriodDefaultUs, memoryLimits, planHugepages, type ResourceChange, sharesToWrite } from './cgroup-change.ts';

/** Returns the writes for all fields except `unified` (cgroup-unified.ts). @throws {BerthError} FAILED_PRECONDITION for unsupported limits. */
export function planV1(change: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  return [
    ...planCpu(change),
    ...planCpuset(change),
    ...planMemory(change, facts),
    ...planHugepages(change.change, facts, { file: (pageSize, part) => `hugetlb.${pageSize}.${part}limit_in_bytes`, unlimited: '-1' }),
  ];
}

function planCpu(update: ResourceChange): CgroupWrite[] {
  const { before, change, after } = update;
  const writes: CgroupWrite[] = [];
  const shares = sharesToWrite(update);
  if (shares) writes.push({ controller: 'cpu', file: 'cpu.shares', value: String(shares), note: 'share of cpu time' });
  if (change.cpuQuotaUs === undefined && change.cpuPeriodUs === undefined) return writes;
  const quotaUs = Math.max(-1, after.cpuQuotaUs ?? -1);
  const periodUs = after.cpuPeriodUs ?? cpuPeriodDefaultUs;
  const quota: CgroupWrite = { controller: 'cpu', file: 'cpu.cfs_quota_us', value: String(quotaUs), note: 'cpu time per period' };
  const period: CgroupWrite = { controller: 'cpu', file: 'cpu.cfs_period_us', value: String(periodUs), note: 'length of the period' };
  // The kernel rejects a ratio above the parent's. So the intermediate ratio must not exceed both the old and the new one.
  const isQuotaFirst = quotaUs < 0 || ((before.cpuQuotaUs ?? -1) >= 0 && periodUs < (before.cpuPeriodUs ?? cpuPeriodDefaultUs));
  return [...writes, ...(isQuotaFirst ? [quota, period] : [period, quota])];
}

function planCpuset({ change }: ResourceChange): CgroupWrite[] {
  const writes: CgroupWrite[] = [];
  if (change.cpusetCpus) writes.push({ controller: 'cpuset', file: 'cpuset.cpus', value: change.cpusetCpus, note: 'allowed cpus' });
  if (change.cpusetMems) writes.push({ controller: 'cpuset', file: 'cpuset.mems', value: change.cpusetMems, note: 'allowed memory nodes' });
  return writes;
}

function planMemory({ before, change, after }: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  if (change.memoryLimitBytes === undefined && change.memorySwapLimitBytes === undefined) return [];
  const limits = memoryLimits(after);
  checkSwap(limits, facts);
  if (limits.memory === undefined || limits.total === undefined) return [];
  const memory: CgroupWrite = { controller: 'memory', file: 'memory.limit_in_bytes', value: limitValue(limits.memory), note: 'memory' };
  if (!facts.hasSwapAccounting) return [memory];
  const total: CgroupWrite = { controller: 'memory', file: 'memory.memsw.limit_in_bytes', value: limitValue(limits.total), note: 'memory plus swap' };
  // Memory plus swap must never be less than memory, not even between the two writes.
  const isGrowing = asBound(limits.total) > asBound(memoryLimits(before).total ?? -1);
  return isGrowing ? [total, memory] : [memory, total];
}

const limitValue = (bytes: number): string => (bytes < 0 ? '-1' : String(bytes));
const asBound = (bytes: number): number => (bytes < 0 ? Number.POSITIVE_INFINITY : bytes);
