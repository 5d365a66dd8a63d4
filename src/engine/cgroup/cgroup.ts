/**
 * Plans a container's cgroup: its path, and the values to write to its files, in order.
 *
 * Pure: src/sys/cgroup/cgroups.ts creates the directories and writes the values. Device access is in device-rules.ts,
 * oom_score_adj in the plan of the process.
 */
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { Resources } from '../state/spec.ts';
import { checkControllers, checkResources, cpuBurstUs, type ResourceChange } from './cgroup-change.ts';
import { planUnified, withUnified } from './cgroup-unified.ts';
import { planV1 } from './cgroup-v1.ts';
import { planV2 } from './cgroup-v2.ts';

/** NAME_MAX, in bytes. */
const componentBytesMax = 255;

/**
 * Returns the path of a container's cgroup below its pod's, from the root of the hierarchies.
 *
 * @param parent as the kubelet sends it; '' means `defaultParent`.
 * @returns `/kubepods/burstable/pod1/<name>`: absolute, no double slash, no `.` or `..`.
 * @throws {BerthError} INVALID_ARGUMENT for a path that leaves the hierarchy, and for a systemd slice.
 */
export function containerCgroupPath(parent: string, name: string, defaultParent: string): string {
  return `${parentCgroupPath(parent, defaultParent)}/${name}`;
}

/** Returns the checked and normalized path of the parent; '' for the root. @throws {BerthError} as containerCgroupPath(). */
export function parentCgroupPath(parent: string, defaultParent: string): string {
  const components = (parent === '' ? defaultParent : parent).split('/').filter((component) => component !== '');
  for (const component of components) {
    // The kernel rejects a line feed, which would break /proc/PID/cgroup.
    if (component === '.' || component === '..' || /[\0\n]/.test(component) || Buffer.byteLength(component) > componentBytesMax) {
      throw invalidArgument(`invalid cgroup parent ${JSON.stringify(parent)}: invalid name ${JSON.stringify(component)}`);
    }
  }
  if (components.at(-1)?.endsWith('.slice')) {
    throw invalidArgument(
      `cgroup parent ${parent} is a systemd slice, but the cgroup driver is cgroupfs: set the kubelet's cgroupDriver to cgroupfs`,
    );
  }
  return components.map((component) => `/${component}`).join('');
}

/**
 * Returns the writes for a new cgroup, in order.
 *
 * @throws {BerthError} INVALID_ARGUMENT for values that are invalid or contradict each other,
 *   FAILED_PRECONDITION for a limit whose controller the node does not have.
 */
export function planCgroup(resources: Resources, facts: CgroupFacts): CgroupWrite[] {
  return planChange({ before: {}, change: resources, after: resources }, facts);
}

/**
 * Returns the writes that change the resources of a container, which may be running, and the resulting resources.
 * Either all writes or none must be applied (updateCgroup() of src/sys/cgroup/cgroup-values.ts).
 *
 * @param usage the memory of the container that cannot be reclaimed (readMemoryUsage()); null if it is not running.
 * @throws {BerthError} as planCgroup(), and FAILED_PRECONDITION for a memory limit below `usage`.
 */
export function planCgroupUpdate(
  current: Resources,
  requested: Resources,
  facts: CgroupFacts,
  usage: { readonly memoryBytes: number } | null,
): { resources: Resources; writes: CgroupWrite[] } {
  const after = mergeResources(withoutOldSwap(current, requested), requested);
  const limit = memoryLimitOf(requested);
  // Otherwise v1 would fail after a long reclaim, and v2 would kill processes.
  if (usage !== null && limit !== undefined && limit >= 0 && limit !== current.memoryLimitBytes && limit < usage.memoryBytes) {
    throw failedPrecondition(`memory limit ${limit} bytes is below the ${usage.memoryBytes} bytes that the container uses`);
  }
  return { resources: after, writes: planChange({ before: current, change: requested, after }, facts) };
}

/** Returns the memory limit of a request in bytes: -1 or undefined for none. */
export function memoryLimitOf({ memoryLimitBytes, unified }: Resources): number | undefined {
  const named = unified?.['memory.max'];
  return named === undefined ? memoryLimitBytes : memparse(named);
}

/** Unlimited memory makes an earlier limit of memory plus swap meaningless, so it is dropped unless the request names it. As in runc 1.5, `runc update`. */
function withoutOldSwap({ memorySwapLimitBytes, ...current }: Resources, requested: Resources): Resources {
  const isDropped = memorySwapLimitBytes === undefined || (requested.memoryLimitBytes !== undefined && requested.memoryLimitBytes < 0);
  return isDropped ? current : { ...current, memorySwapLimitBytes };
}

/** Bytes in the notation of memory.max, such as `64M`: lib/cmdline.c, memparse(). @returns undefined for `max`, and for what the kernel refuses. */
function memparse(text: string): number | undefined {
  const [, digits, suffix = ''] = /^(\d+)([KMGTPE]?)$/i.exec(text.trim()) ?? [];
  return digits === undefined ? undefined : Number(digits) * 1024 ** ' KMGTPE'.indexOf(suffix.toUpperCase() || ' ');
}

/** Merges `requested` into `current`: undefined fields are unchanged, `unified` and huge page limits are merged by name. */
export function mergeResources(current: Resources, requested: Resources): Resources {
  const defined = Object.fromEntries(Object.entries(requested).filter(([, value]) => value !== undefined)) as Resources;
  const merged: Resources = { ...current, ...defined };
  const unified = { ...current.unified, ...requested.unified };
  const pages = new Map([...(current.hugepageLimits ?? []), ...(requested.hugepageLimits ?? [])].map((limit) => [limit.pageSize, limit]));
  return {
    ...merged,
    ...(Object.keys(unified).length > 0 ? { unified } : {}),
    ...(pages.size > 0 ? { hugepageLimits: [...pages.values()] } : {}),
  };
}

function planChange(change: ResourceChange, facts: CgroupFacts): CgroupWrite[] {
  checkResources(change.after);
  checkControllers(change.change, facts);
  const writes = facts.version === 1 ? planV1(change, facts) : planV2(change, facts);
  const [all, changed] = [change.after, change.change].map(({ unified = {} }) => planUnified(unified, facts)) as [CgroupWrite[], CgroupWrite[]];
  // The burst must never exceed the quota, and shares cannot be written while idle.
  const isFirst = ({ file }: CgroupWrite) => file === 'cpu.idle' || (burstFiles.has(file) && cpuBurstUs(change.after) < cpuBurstUs(change.before));
  const { first = [], then = [] } = Object.groupBy(withUnified(writes, all, changed), (write) => (isFirst(write) ? 'first' : 'then'));
  return [...first, ...then];
}

const burstFiles = new Set(['cpu.max.burst', 'cpu.cfs_burst_us']);
