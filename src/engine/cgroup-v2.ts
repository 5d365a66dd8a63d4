/**
 * Resources as writes to the files of a cgroup v2. Pure.
 *
 * Files: Documentation/admin-guide/cgroup-v2.rst of the kernel.
 */
import { failedPrecondition, invalidArgument } from '../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../sys/cgroup-facts.ts';
import { checkSwap, cpuPeriodDefaultUs, memoryLimits, planHugepages, type ResourceChange } from './cgroup-change.ts';
import { weightOfShares } from './cpu-weight.ts';

/** @throws {BerthError} INVALID_ARGUMENT, FAILED_PRECONDITION for unified values that name no file or no controller of the node. */
export function planV2(change: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  return [
    ...planCpu(change),
    ...planCpuset(change),
    ...planMemory(change, facts),
    ...planHugepages(change.change, facts, (pageSize, part) => `hugetlb.${pageSize}.${part}max`),
    // Last: who writes the kernel's own names knows better than the fields above.
    ...planUnified(change.change.unified ?? {}, facts),
  ];
}

function planCpu({ change, after }: ResourceChange): CgroupWrite[] {
  const writes: CgroupWrite[] = [];
  if (change.cpuShares) {
    writes.push({
      controller: 'cpu',
      file: 'cpu.weight',
      value: String(weightOfShares(change.cpuShares)),
      note: `share of cpu time, from ${change.cpuShares} shares`,
    });
  }
  if (change.cpuQuotaUs === undefined && change.cpuPeriodUs === undefined) return writes;
  const quota = after.cpuQuotaUs === undefined || after.cpuQuotaUs < 0 ? 'max' : String(after.cpuQuotaUs);
  return [
    ...writes,
    { controller: 'cpu', file: 'cpu.max', value: `${quota} ${after.cpuPeriodUs ?? cpuPeriodDefaultUs}`, note: 'cpu time in a period' },
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
  // v2 limits swap by itself, the request memory and swap together.
  const swapBytes = limits.total < 0 ? -1 : limits.total - limits.memory;
  // Before memory: what a lower memory limit pushes out needs the room that it was given.
  return [{ controller: 'memory', file: 'memory.swap.max', value: limitValue(swapBytes), note: 'swap' }, memory];
}

/** Files that act on processes or on the tree instead of holding a value. */
const actingFiles = new Set(['cgroup.procs', 'cgroup.threads', 'cgroup.kill', 'cgroup.type', 'cgroup.subtree_control']);

function planUnified(unified: Readonly<Record<string, string>>, facts: CgroupFacts): CgroupWrite[] {
  return Object.entries(unified).flatMap(([file, value]) => {
    if (!/^[a-z]\w*(\.[\w-]+)+$/.test(file) || actingFiles.has(file))
      throw invalidArgument(`unified cgroup value ${JSON.stringify(file)} is no file that holds a setting`);
    const controller = file.slice(0, file.indexOf('.'));
    if (controller !== 'cgroup' && !facts.controllers.has(controller)) {
      throw failedPrecondition(`setting ${file}: the node has no cgroup controller ${controller}`);
    }
    // Files with a line a device, such as io.max, take one line a write.
    const lines = value.split('\n').filter((line) => line !== '');
    return lines.map((line) => ({ controller, file, value: line, note: 'as requested by name' }));
  });
}

const limitValue = (bytes: number): string => (bytes < 0 ? 'max' : String(bytes));
