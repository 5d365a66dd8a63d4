/**
 * Plans a container's cgroup: where it is, and which values are written to which file in which order.
 *
 * Pure: src/sys/cgroup/cgroups.ts makes the directories and does the writes. Device access is in device-rules.ts,
 * oom_score_adj in the plan of the process.
 */
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type { CgroupFacts, CgroupWrite } from '../../sys/cgroup/cgroup-facts.ts';
import type { Resources } from '../state/spec.ts';
import { checkControllers, checkResources, cpuBurstUs, type ResourceChange } from './cgroup-change.ts';
import { planUnified, withUnified } from './cgroup-unified.ts';
import { planV1 } from './cgroup-v1.ts';
import { planV2 } from './cgroup-v2.ts';

/** Bytes of one path component: NAME_MAX. A line feed would break /proc/PID/cgroup, so the kernel refuses it. */
const componentBytesMax = 255;

/**
 * The cgroup of a container below its pod's, from the root of the hierarchies.
 *
 * @param parent as the kubelet sends it; '' stands for `defaultParent`.
 * @returns `/kubepods/burstable/pod1/<name>`: absolute, no double slash, no `.` or `..`.
 * @throws {BerthError} INVALID_ARGUMENT for a path that leaves the hierarchy, and for a systemd slice.
 */
export function containerCgroupPath(parent: string, name: string, defaultParent: string): string {
  return `${parentCgroupPath(parent, defaultParent)}/${name}`;
}

/** The checked and tidied parent alone; '' for the root. @throws {BerthError} as containerCgroupPath(). */
export function parentCgroupPath(parent: string, defaultParent: string): string {
  const components = (parent === '' ? defaultParent : parent).split('/').filter((component) => component !== '');
  for (const component of components) {
    if (component === '.' || component === '..' || /[\0\n]/.test(component) || Buffer.byteLength(component) > componentBytesMax) {
      throw invalidArgument(`cgroup parent ${JSON.stringify(parent)}: ${JSON.stringify(component)} is no name of a cgroup`);
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
 * The writes for a cgroup that was just made, in order.
 *
 * @throws {BerthError} INVALID_ARGUMENT for values that contradict each other or that no kernel takes,
 *   FAILED_PRECONDITION for a limit that this node has no controller for.
 */
export function planCgroup(resources: Resources, facts: CgroupFacts): CgroupWrite[] {
  return planChange({ before: {}, change: resources, after: resources }, facts);
}

/**
 * The writes that lead from one set of resources to another while the container runs, and the resources afterwards.
 * To be applied all or none (updateCgroup() of src/sys/cgroup/cgroup-values.ts).
 *
 * @param usage what the container holds now and cannot give back (readMemoryUsage()); null when it is not running.
 * @throws {BerthError} as planCgroup(), and FAILED_PRECONDITION for a memory limit below `usage`.
 */
export function planCgroupUpdate(
  current: Resources,
  wanted: Resources,
  facts: CgroupFacts,
  usage: { readonly memoryBytes: number } | null,
): { resources: Resources; writes: CgroupWrite[] } {
  const after = mergeResources(current, wanted);
  const named = Number(wanted.unified?.['memory.max'] ?? Number.NaN);
  const limit = Number.isNaN(named) ? wanted.memoryLimitBytes : named;
  // v1 would refuse after a long reclaim, v2 would kill.
  if (usage !== null && limit !== undefined && limit >= 0 && limit !== current.memoryLimitBytes && limit < usage.memoryBytes) {
    throw failedPrecondition(`memory limit ${limit} bytes is below the ${usage.memoryBytes} bytes that the container uses`);
  }
  return { resources: after, writes: planChange({ before: current, change: wanted, after }, facts) };
}

/** `wanted` laid over `current`: a field that is undefined stays, `unified` and huge page limits merge by name. */
export function mergeResources(current: Resources, wanted: Resources): Resources {
  const given = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)) as Resources;
  const merged: Resources = { ...current, ...given };
  const unified = { ...current.unified, ...wanted.unified };
  const pages = new Map([...(current.hugepageLimits ?? []), ...(wanted.hugepageLimits ?? [])].map((limit) => [limit.pageSize, limit]));
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
  const [standing, changed] = [change.after, change.change].map(({ unified = {} }) => planUnified(unified, facts)) as [CgroupWrite[], CgroupWrite[]];
  // A burst is never above the quota. While idle there are no shares.
  const isFirst = ({ file }: CgroupWrite) => file === 'cpu.idle' || (burstFiles.has(file) && cpuBurstUs(change.after) < cpuBurstUs(change.before));
  const { first = [], then = [] } = Object.groupBy(withUnified(writes, standing, changed), (write) => (isFirst(write) ? 'first' : 'then'));
  return [...first, ...then];
}

const burstFiles = new Set(['cpu.max.burst', 'cpu.cfs_burst_us']);
