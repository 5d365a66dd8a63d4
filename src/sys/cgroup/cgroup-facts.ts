/**
 * Facts about the node's cgroups, parsed from /proc, and the types of changes to a cgroup. Pure.
 */
import { type MountInfo, parseMountInfo } from '../call/proc.ts';

type CommonFacts = {
  /** Controllers available to containers: `cpu`, `memory`, `pids` ... */
  readonly controllers: ReadonlySet<string>;
  /** False if the kernel does not account swap; then there is no file for a swap limit. */
  readonly hasSwapAccounting: boolean;
  /** Huge page sizes as in the names of cgroup files: `2MB`, `1GB`. */
  readonly hugepageSizes: readonly string[];
  /** By mount point, the daemon's own way into the hierarchy: holdHierarchies(). Absent in commands that only print facts, and in tests. */
  readonly ways?: ReadonlyMap<string, string>;
};

export type CgroupV1Facts = CommonFacts & {
  readonly version: 1;
  /** Mount points by controller, or by `name=systemd` for a hierarchy without controllers. Co-mounted controllers share one. */
  readonly mounts: ReadonlyMap<string, string>;
  /** Mount point of the cgroup2 hierarchy of a hybrid node, or null. It has no limits, but groups processes. */
  readonly unifiedRoot: string | null;
};

export type CgroupV2Facts = CommonFacts & {
  readonly version: 2;
  /** Mount point of the hierarchy. */
  readonly root: string;
  /** Whether a cgroup namespace is a boundary of delegation: Documentation/admin-guide/cgroup-v2.rst, nsdelegate. */
  readonly hasNsDelegate: boolean;
};

export type CgroupFacts = CgroupV1Facts | CgroupV2Facts;

/** One value written to one file of a cgroup. */
export type CgroupWrite = {
  /** The controller of the file, which selects the hierarchy on v1; `cgroup` for files that belong to no controller. */
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** `missing`: the write is skipped if the kernel does not have the file, because the value is the default there. */
  readonly tolerate?: 'missing';
  /** Purpose of the write, in a few words. */
  readonly note: string;
};

/**
 * Devices that a cgroup may use. `all`: those of its parent. `listed`: v1 uses the lines in order, v2 the BPF program (BPF_PROG_TYPE_CGROUP_DEVICE);
 * everything else is denied.
 */
export type DevicePolicy = { readonly kind: 'all' } | { readonly kind: 'listed'; readonly v1Allows: readonly string[]; readonly v2Program: Buffer };

export type CgroupMounts =
  | { readonly version: 1; readonly mounts: ReadonlyMap<string, string>; readonly unifiedRoot: string | null }
  | { readonly version: 2; readonly root: string };

/** Options of a v1 mount that name no controller: cgroups(7) and the kernel's cgroup-v1.c. */
const plainOptions = new Set(['rw', 'ro', 'all', 'none', 'noprefix', 'clone_children', 'xattr', 'cpuset_v2_mode', 'favordynmods', 'nofavordynmods']);

/**
 * Finds the hierarchies in the text of mountinfo. A cgroup2 mount counts as version 2 only if no v1 controller is mounted:
 * on a hybrid node, v1 uses the controllers, and the unified mount has none.
 *
 * @returns null if no cgroup file system is mounted.
 */
export function findCgroupMounts(mountInfo: string): CgroupMounts | null {
  const mounts = new Map<string, string>();
  let unifiedRoot: string | null = null;
  for (const mount of standardPathFirst(parseMountInfo(mountInfo))) {
    if (mount.type === 'cgroup2') unifiedRoot ??= mount.mountPoint;
    if (mount.type !== 'cgroup') continue;
    for (const option of mount.superOptions) {
      if (!isPlainOption(option) && !mounts.has(option)) mounts.set(option, mount.mountPoint);
    }
  }
  const hasControllers = [...mounts.keys()].some((name) => !name.startsWith('name='));
  if (hasControllers) return { version: 1, mounts, unifiedRoot };
  return unifiedRoot === null ? null : { version: 2, root: unifiedRoot };
}

/** Returns whether the cgroup2 hierarchy is mounted with nsdelegate. The option belongs to the hierarchy, so any of its mounts shows it. */
export function hasNsDelegate(mountInfo: string): boolean {
  return parseMountInfo(mountInfo).some(({ type, superOptions }) => type === 'cgroup2' && superOptions.includes('nsdelegate'));
}

/** Other programs may have bind-mounted a hierarchy, or a part of it, elsewhere. */
function standardPathFirst(mounts: readonly MountInfo[]): MountInfo[] {
  const isStandard = (mount: MountInfo): boolean => mount.mountPoint === '/sys/fs/cgroup' || mount.mountPoint.startsWith('/sys/fs/cgroup/');
  return [...mounts.filter(isStandard), ...mounts.filter((mount) => !isStandard(mount))];
}

const isPlainOption = (option: string): boolean => plainOptions.has(option) || option.startsWith('release_agent=') || option === '';

/** Converts `hugepages-2048kB`, a directory of /sys/kernel/mm/hugepages, to `2MB` as in mm/hugetlb_cgroup.c; null for any other name. */
export function hugepageSizeOf(directory: string): string | null {
  const kib = Number(/^hugepages-(\d+)kB$/.exec(directory)?.[1]);
  if (!Number.isInteger(kib) || kib === 0) return null;
  if (kib >= 1024 * 1024) return `${Math.floor(kib / (1024 * 1024))}GB`;
  return kib >= 1024 ? `${Math.floor(kib / 1024)}MB` : `${kib}KB`;
}

/** Returns the mount points of the hierarchies; on v1 the unified one of a hybrid node is the last. */
export function mountPointsOf(facts: CgroupFacts): string[] {
  if (facts.version === 2) return [facts.root];
  return [...new Set([...facts.mounts.values(), ...(facts.unifiedRoot === null ? [] : [facts.unifiedRoot])])];
}

const wayInto = ({ ways }: CgroupFacts, mountPoint: string): string => ways?.get(mountPoint) ?? mountPoint;

/** Returns the directories of a cgroup: one per hierarchy on v1 (the unified one of a hybrid node last), one on v2. */
export function cgroupDirectories(facts: CgroupFacts, path: string): string[] {
  return mountPointsOf(facts).map((mountPoint) => wayInto(facts, mountPoint) + path);
}

/** Returns the directory of a cgroup in the cgroup2 hierarchy; null on a v1 node without one. */
export function unifiedDirectory(facts: CgroupFacts, path: string): string | null {
  const mountPoint = facts.version === 2 ? facts.root : facts.unifiedRoot;
  return mountPoint === null ? null : wayInto(facts, mountPoint) + path;
}

/** Returns the directory with a controller's files for a cgroup, or null if the controller is not mounted. */
export function controllerDirectory(facts: CgroupFacts, path: string, controller: string): string | null {
  if (facts.version === 2) return wayInto(facts, facts.root) + path;
  const mount = facts.mounts.get(controller);
  return mount === undefined ? null : wayInto(facts, mount) + path;
}

/** Returns the value of `key` in a flat keyed file such as memory.events (`key value` lines), or null. */
export function flatKeyed(text: string, key: string): number | null {
  for (const line of text.split('\n')) {
    const [name, value] = line.split(' ');
    if (name === key) return Number(value);
  }
  return null;
}
