/**
 * Checks changes of resources and resolves memory limits, for both versions of cgroups. Pure.
 */
import { type BerthError, failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { Resources } from '../state/spec.ts';

/** `change` is the request. `before` and `after` are all resources, for writes whose order or value depends on other fields. */
export type ResourceChange = { readonly before: Resources; readonly change: Resources; readonly after: Resources };

/** The kernel's default period, used for a quota without a period: Documentation/scheduler/sched-bwc.rst. */
export const cpuPeriodDefaultUs = 100_000;
/** Bounds of the period, and the minimum quota: tg_set_cfs_bandwidth() of kernel/sched/core.c. */
const cpuPeriodMinUs = 1_000;
const cpuPeriodMaxUs = 1_000_000;
const cpuQuotaMinUs = 1_000;

/** Checks values that the kernel would reject with EINVAL and without a reason. @throws {BerthError} INVALID_ARGUMENT. */
export function checkResources(resources: Resources): void {
  const { cpuPeriodUs, cpuQuotaUs, cpusetCpus, cpusetMems } = resources;
  if (cpuPeriodUs !== undefined && !(cpuPeriodUs >= cpuPeriodMinUs && cpuPeriodUs <= cpuPeriodMaxUs)) {
    throw invalidArgument(`invalid cpu period ${cpuPeriodUs} us: must be from ${cpuPeriodMinUs} to ${cpuPeriodMaxUs} us`);
  }
  if (cpuQuotaUs !== undefined && cpuQuotaUs >= 0 && cpuQuotaUs < cpuQuotaMinUs) {
    throw invalidArgument(`invalid cpu quota ${cpuQuotaUs} us: must be at least ${cpuQuotaMinUs} us`);
  }
  for (const list of [cpusetCpus, cpusetMems]) {
    if (list !== undefined && !/^[\d,:/-]*$/.test(list))
      throw invalidArgument(`invalid cpuset ${JSON.stringify(list)}: want a list of numbers and ranges`);
  }
  for (const { pageSize } of resources.hugepageLimits ?? []) {
    if (!/^\d+[KMG]B$/.test(pageSize)) throw invalidArgument(`invalid huge page size ${JSON.stringify(pageSize)}: want a size such as 2MB`);
  }
  memoryLimits(resources);
  const [burst, quota] = [cpuBurstUs(resources), effectiveQuotaUs(resources)];
  if (quota >= 0 && burst > quota) throw invalidArgument(`invalid cpu burst ${burst} us: exceeds the quota of ${quota} us`);
}

/** Returns the microseconds of unused cpu time that may exceed the quota, which only `unified` can set: Documentation/scheduler/sched-bwc.rst. */
export const cpuBurstUs = ({ unified }: Resources): number => Number(unified?.['cpu.max.burst'] ?? 0);

/** -1: unlimited. */
function effectiveQuotaUs({ unified, cpuQuotaUs = -1 }: Resources): number {
  const named = unified?.['cpu.max'];
  return named === undefined ? cpuQuotaUs : Number(/^\d+/.exec(named)?.[0] ?? -1);
}

const isIdle = ({ unified }: Resources): boolean => unified?.['cpu.idle']?.trim() === '1';

/**
 * Returns the cpu shares to write. While cpu.idle is set, the kernel rejects them; when it is cleared, they have been reset: sched_group_set_shares()
 * of kernel/sched/fair.c.
 */
export function sharesToWrite({ before, change, after }: ResourceChange): number | undefined {
  if (isIdle(after)) return undefined;
  return isIdle(before) ? after.cpuShares : change.cpuShares;
}

/** @throws {BerthError} FAILED_PRECONDITION for a limit whose controller the node does not have. */
export function checkControllers(change: Resources, facts: CgroupFacts): void {
  const isCpu = change.cpuShares !== undefined || change.cpuQuotaUs !== undefined || change.cpuPeriodUs !== undefined;
  const needs: readonly (readonly [boolean, string, string])[] = [
    [isCpu, 'cpu', 'cpu time'],
    [change.memoryLimitBytes !== undefined || change.memorySwapLimitBytes !== undefined, 'memory', 'memory'],
    [Boolean(change.cpusetCpus || change.cpusetMems), 'cpuset', 'cpus and memory nodes'],
  ];
  for (const [isNeeded, controller, what] of needs) {
    if (isNeeded && !facts.controllers.has(controller)) throw missingController(controller, what);
  }
}

function missingController(controller: string, what: string): BerthError {
  return failedPrecondition(`limit ${what}: the node has no cgroup controller ${controller}`);
}

/** Bytes of memory, and of memory plus swap; -1: unlimited; undefined: not set by berth. */
export type MemoryLimits = { readonly memory: number | undefined; readonly total: number | undefined };

/**
 * Returns the effective limits. If memory plus swap is not limited, its limit is that of memory: a container with a memory limit gets no swap.
 *
 * @throws {BerthError} INVALID_ARGUMENT if memory plus swap is less than memory, or limited without memory.
 */
export function memoryLimits(resources: Resources): MemoryLimits {
  const { memoryLimitBytes: memory, memorySwapLimitBytes: total } = resources;
  if (memory === undefined) {
    if (total !== undefined && total >= 0) throw invalidArgument(`invalid memory plus swap limit ${total} bytes: requires a memory limit`);
    return { memory: undefined, total: undefined };
  }
  if (total === undefined) return { memory, total: memory };
  if (total >= 0 && (memory < 0 || total < memory)) {
    throw invalidArgument(`invalid memory plus swap limit ${total} bytes: below the memory limit (${memory < 0 ? 'unlimited' : `${memory} bytes`})`);
  }
  return { memory, total };
}

/** @throws {BerthError} FAILED_PRECONDITION for a swap limit if the kernel has no swap accounting. */
export function checkSwap(limits: MemoryLimits, facts: CgroupFacts): void {
  const { memory, total } = limits;
  if (!facts.hasSwapAccounting && total !== undefined && total >= 0 && total !== memory) {
    throw failedPrecondition(`limit memory plus swap to ${total} bytes: the kernel has no swap accounting (swapaccount=1)`);
  }
}

/**
 * Returns the writes that limit usage and reservation of huge pages. The kubelet sends 0 for every page size of the node, so 0 is ignored if the node
 * does not have the controller or the page size; so is -1, unlimited.
 *
 * @param file returns the name of the limit's file for a page size and a part ('' or 'rsvd.'). @param unlimited its value for no limit.
 * @throws {BerthError} FAILED_PRECONDITION for another limit that the node does not support.
 */
export function planHugepages(
  change: Resources,
  facts: CgroupFacts,
  { file, unlimited }: { readonly file: (pageSize: string, part: '' | 'rsvd.') => string; readonly unlimited: string },
): CgroupWrite[] {
  return (change.hugepageLimits ?? []).flatMap(({ pageSize, limitBytes }) => {
    const isKnown = facts.controllers.has('hugetlb') && facts.hugepageSizes.includes(pageSize);
    if (!isKnown && limitBytes <= 0) return [];
    if (!facts.controllers.has('hugetlb')) throw missingController('hugetlb', `huge pages of ${pageSize}`);
    if (!isKnown) throw failedPrecondition(`limit huge pages of ${pageSize}: the node does not support this page size`);
    const value = limitBytes < 0 ? unlimited : String(limitBytes);
    return [
      { controller: 'hugetlb', file: file(pageSize, ''), value, note: 'huge pages used' },
      // Since Linux 5.7. Older kernels limit only the usage.
      { controller: 'hugetlb', file: file(pageSize, 'rsvd.'), value, tolerate: 'missing' as const, note: 'huge pages reserved' },
    ];
  });
}
