/**
 * What both versions of cgroups need to plan a change of resources: its shape, its checks, and the meaning of the memory limits. Pure.
 */
import { type BerthError, failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { Resources } from '../state/spec.ts';

/** `change` is what was asked for; `before` and `after` are the whole, for writes whose order or value depends on the rest. */
export type ResourceChange = { readonly before: Resources; readonly change: Resources; readonly after: Resources };

/** The kernel's default, and ours for a quota without a period. Documentation/scheduler/sched-bwc.rst. */
export const cpuPeriodDefaultUs = 100_000;
/** Bounds of a period and the least quota: kernel/sched/core.c, tg_set_cfs_bandwidth(). */
const cpuPeriodMinUs = 1_000;
const cpuPeriodMaxUs = 1_000_000;
const cpuQuotaMinUs = 1_000;

/** @throws {BerthError} INVALID_ARGUMENT for what the kernel would call an invalid argument without saying why. */
export function checkResources(resources: Resources): void {
  const { cpuPeriodUs, cpuQuotaUs, cpusetCpus, cpusetMems } = resources;
  if (cpuPeriodUs !== undefined && !(cpuPeriodUs >= cpuPeriodMinUs && cpuPeriodUs <= cpuPeriodMaxUs)) {
    throw invalidArgument(`cpu period ${cpuPeriodUs} us is not between ${cpuPeriodMinUs} and ${cpuPeriodMaxUs} us`);
  }
  if (cpuQuotaUs !== undefined && cpuQuotaUs >= 0 && cpuQuotaUs < cpuQuotaMinUs) {
    throw invalidArgument(`cpu quota ${cpuQuotaUs} us is below the least one, ${cpuQuotaMinUs} us`);
  }
  for (const list of [cpusetCpus, cpusetMems]) {
    if (list !== undefined && !/^[\d,:/-]*$/.test(list)) throw invalidArgument(`cpuset ${JSON.stringify(list)} is no list of numbers and ranges`);
  }
  for (const { pageSize } of resources.hugepageLimits ?? []) {
    if (!/^\d+[KMG]B$/.test(pageSize)) throw invalidArgument(`huge page size ${JSON.stringify(pageSize)} is not written as in 2MB`);
  }
  memoryLimits(resources);
  const [burst, quota] = [cpuBurstUs(resources), effectiveQuotaUs(resources)];
  if (quota >= 0 && burst > quota) throw invalidArgument(`cpu burst ${burst} us is above the quota, ${quota} us`);
}

/** Microseconds of saved cpu time that may be used beyond the quota: only by name. Documentation/scheduler/sched-bwc.rst. */
export const cpuBurstUs = ({ unified }: Resources): number => Number(unified?.['cpu.max.burst'] ?? 0);

/** -1: unlimited. */
function effectiveQuotaUs({ unified, cpuQuotaUs = -1 }: Resources): number {
  const named = unified?.['cpu.max'];
  return named === undefined ? cpuQuotaUs : Number(/^\d+/.exec(named)?.[0] ?? -1);
}

const isIdle = ({ unified }: Resources): boolean => unified?.['cpu.idle']?.trim() === '1';

/** The kernel refuses any while cpu.idle is set, and has forgotten them when it is cleared. kernel/sched/fair.c, sched_group_set_shares(). */
export function sharesToWrite({ before, change, after }: ResourceChange): number | undefined {
  if (isIdle(after)) return undefined;
  return isIdle(before) ? after.cpuShares : change.cpuShares;
}

/** @throws {BerthError} FAILED_PRECONDITION when a limit is asked for that this node cannot keep. */
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
  return failedPrecondition(`limiting ${what}: the node has no cgroup controller ${controller}`);
}

/** Bytes of memory, and of memory plus swap; -1: unlimited; undefined: none of our business. */
export type MemoryLimits = { readonly memory: number | undefined; readonly total: number | undefined };

/**
 * The limits in force. Without a limit of memory plus swap it equals that of memory: a container that was promised memory gets no swap.
 *
 * @throws {BerthError} INVALID_ARGUMENT when memory plus swap is less than memory.
 */
export function memoryLimits(resources: Resources): MemoryLimits {
  const { memoryLimitBytes: memory, memorySwapLimitBytes: total } = resources;
  if (memory === undefined) {
    if (total !== undefined && total >= 0) throw invalidArgument(`limit of memory plus swap ${total} bytes is given without a memory limit`);
    return { memory: undefined, total: undefined };
  }
  if (total === undefined) return { memory, total: memory };
  if (total >= 0 && (memory < 0 || total < memory)) {
    throw invalidArgument(`limit of memory plus swap ${total} bytes is below the memory limit ${memory < 0 ? 'unlimited' : `${memory} bytes`}`);
  }
  return { memory, total };
}

/** @throws {BerthError} FAILED_PRECONDITION: swap shall be limited, and the kernel does not count it. */
export function checkSwap(limits: MemoryLimits, facts: CgroupFacts): void {
  const { memory, total } = limits;
  if (!facts.hasSwapAccounting && total !== undefined && total >= 0 && total !== memory) {
    throw failedPrecondition(`limiting memory plus swap to ${total} bytes: the kernel counts no swap (swapaccount=1)`);
  }
}

/**
 * Limits of huge pages, usage and reservation. The kubelet sends every size of the node with 0, so 0 asks nothing of a node without the controller.
 *
 * @param file name of the limit's file for a page size and part ('' or 'rsvd.').
 */
export function planHugepages(change: Resources, facts: CgroupFacts, file: (pageSize: string, part: '' | 'rsvd.') => string): CgroupWrite[] {
  return (change.hugepageLimits ?? []).flatMap(({ pageSize, limitBytes }) => {
    const isKnown = facts.controllers.has('hugetlb') && facts.hugepageSizes.includes(pageSize);
    if (!isKnown && limitBytes === 0) return [];
    if (!facts.controllers.has('hugetlb')) throw missingController('hugetlb', `huge pages of ${pageSize}`);
    if (!isKnown) throw failedPrecondition(`limiting huge pages of ${pageSize}: the node has no such page size`);
    const value = String(limitBytes);
    return [
      { controller: 'hugetlb', file: file(pageSize, ''), value, note: 'huge pages in use' },
      // Since Linux 5.7; before, only use was limited.
      { controller: 'hugetlb', file: file(pageSize, 'rsvd.'), value, tolerate: 'missing' as const, note: 'huge pages reserved' },
    ];
  });
}
