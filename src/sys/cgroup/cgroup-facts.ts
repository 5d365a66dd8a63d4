/**
 * What this node's cgroups offer, and the words for a change to one: parsed from /proc, never read here. Pure.
 */
import { type MountInfo, parseMountInfo } from '../call/proc.ts';

type CommonFacts = {
  /** Controllers that containers can have: `cpu`, `memory`, `pids` ... */
  readonly controllers: ReadonlySet<string>;
  /** False: the kernel counts no swap, and a swap limit has no file. */
  readonly hasSwapAccounting: boolean;
  /** Huge page sizes as cgroup files spell them: `2MB`, `1GB`. */
  readonly hugepageSizes: readonly string[];
};

export type CgroupV1Facts = CommonFacts & {
  readonly version: 1;
  /** Controller, or `name=systemd` for a hierarchy without one, to mount point. Controllers mounted together share one. */
  readonly mounts: ReadonlyMap<string, string>;
  /** Mount point of a cgroup2 hierarchy beside the v1 ones (hybrid), or null. It limits nothing, but groups processes. */
  readonly unifiedRoot: string | null;
};

export type CgroupV2Facts = CommonFacts & {
  readonly version: 2;
  /** Mount point of the one hierarchy. */
  readonly root: string;
};

export type CgroupFacts = CgroupV1Facts | CgroupV2Facts;

/** One value written to one file of a cgroup. */
export type CgroupWrite = {
  /** Whose hierarchy holds the file (v1); `cgroup` for files that belong to no controller. */
  readonly controller: string;
  readonly file: string;
  readonly value: string;
  /** `missing`: a kernel without this file keeps the promise anyhow. */
  readonly tolerate?: 'missing';
  /** What the write is for, in a few words. */
  readonly note: string;
};

/**
 * Which devices a cgroup may use. `all`: whatever its parent may. `listed`: v1 takes the lines in order, v2 the BPF program
 * (BPF_PROG_TYPE_CGROUP_DEVICE); what neither allows is refused.
 */
export type DevicePolicy = { readonly kind: 'all' } | { readonly kind: 'listed'; readonly v1Allows: readonly string[]; readonly v2Program: Buffer };

export type CgroupMounts =
  | { readonly version: 1; readonly mounts: ReadonlyMap<string, string>; readonly unifiedRoot: string | null }
  | { readonly version: 2; readonly root: string };

/** Options of a v1 mount that name no controller: cgroups(7) and the kernel's cgroup-v1.c. */
const plainOptions = new Set(['rw', 'ro', 'all', 'none', 'noprefix', 'clone_children', 'xattr', 'cpuset_v2_mode', 'favordynmods', 'nofavordynmods']);

/**
 * Finds the hierarchies in a mountinfo text. A cgroup2 mount counts as version 2 only where no v1 controller is mounted:
 * on a hybrid node the controllers are in use there, and the unified mount has none of them.
 *
 * @returns null when no cgroup file system is mounted.
 */
export function findCgroupMounts(mountInfo: string): CgroupMounts | null {
  const mounts = new Map<string, string>();
  let unifiedRoot: string | null = null;
  for (const mount of usualPlaceFirst(parseMountInfo(mountInfo))) {
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

/** Others may have bound a hierarchy, or a part of it, to places of theirs. */
function usualPlaceFirst(mounts: readonly MountInfo[]): MountInfo[] {
  const isUsual = (mount: MountInfo): boolean => mount.mountPoint === '/sys/fs/cgroup' || mount.mountPoint.startsWith('/sys/fs/cgroup/');
  return [...mounts.filter(isUsual), ...mounts.filter((mount) => !isUsual(mount))];
}

const isPlainOption = (option: string): boolean => plainOptions.has(option) || option.startsWith('release_agent=') || option === '';

/** `hugepages-2048kB`, a directory of /sys/kernel/mm/hugepages, to `2MB` as in mm/hugetlb_cgroup.c; null for another name. */
export function hugepageSizeOf(directory: string): string | null {
  const kib = Number(/^hugepages-(\d+)kB$/.exec(directory)?.[1]);
  if (!Number.isInteger(kib) || kib === 0) return null;
  if (kib >= 1024 * 1024) return `${Math.floor(kib / (1024 * 1024))}GB`;
  return kib >= 1024 ? `${Math.floor(kib / 1024)}MB` : `${kib}KB`;
}

/** The directories that hold a cgroup of this name: one a hierarchy on v1 (the unified one of a hybrid node last), one on v2. */
export function cgroupDirectories(facts: CgroupFacts, path: string): string[] {
  if (facts.version === 2) return [facts.root + path];
  const roots = new Set(facts.mounts.values());
  if (facts.unifiedRoot !== null) roots.add(facts.unifiedRoot);
  return [...roots].map((root) => root + path);
}

/** The directory with a controller's files for this cgroup, or null where the controller is not mounted. */
export function controllerDirectory(facts: CgroupFacts, path: string, controller: string): string | null {
  if (facts.version === 2) return facts.root + path;
  const mount = facts.mounts.get(controller);
  return mount === undefined ? null : mount + path;
}

/** Value of `key` in a flat keyed file such as memory.events ("key value" lines), or null. */
export function flatKeyed(text: string, key: string): number | null {
  for (const line of text.split('\n')) {
    const [name, value] = line.split(' ');
    if (name === key) return Number(value);
  }
  return null;
}
