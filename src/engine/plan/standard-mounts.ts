/**
 * Plans the default mounts of a container, which its own mounts may replace: /proc, /dev, /sys, cgroups, and the sandbox's files in /etc.
 *
 * Pure.
 */
import { MOUNT_ATTR } from './abi.ts';
import { devMounts } from './devices.ts';
import { normalPath, type RootMount } from './mounts.ts';
import type { Reg } from './plan.ts';

const guarded = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/**
 * How the container sees cgroups. v1: one register for each hierarchy, a bind mount of the container's own part. v2: a new mount in a cgroup
 * namespace, or the host's mount as a register: a new mount from the host's cgroup namespace would reset the mount options of the only hierarchy.
 */
export type CgroupView = { /** Absent: read-only. */ readonly isWritable?: boolean } & (
  | { readonly version: 2; readonly host?: Reg }
  | {
      readonly version: 1;
      readonly hierarchies: readonly { readonly name: string; readonly reg: Reg }[];
      readonly links: readonly { readonly name: string; readonly target: string }[];
    }
);

export type StandardMounts = {
  readonly isPrivileged: boolean;
  readonly hasReadonlyRoot: boolean;
  readonly cgroups: CgroupView;
  /** The sandbox's /dev/shm, or the host's. */
  readonly shm: Reg;
  /** Mounts of the host, for those that the pod's user namespace may not create because its pid, network or ipc namespace is the host's. */
  readonly fromHost?: { readonly proc?: Reg; readonly sys?: Reg; readonly mqueue?: Reg | null };
  /** Files of the sandbox, with their path in the container. */
  readonly files: readonly { readonly path: string; readonly reg: Reg }[];
};

/** The register of the tmpfs in which v1 hierarchies are mounted. */
export const cgroupReg: Reg = 'cgroups';

/** Returns the default mounts, unordered. */
export function standardMounts(options: StandardMounts): RootMount[] {
  const { fromHost = {} } = options;
  return [
    kernelMount('/proc', 'proc', guarded, fromHost.proc),
    ...devMounts(options.shm, fromHost.mqueue),
    kernelMount('/sys', 'sysfs', guarded | (options.isPrivileged ? 0 : MOUNT_ATTR.RDONLY), fromHost.sys),
    ...cgroupMounts(options.cgroups),
    ...options.files.map(
      ({ path, reg }): RootMount => ({
        target: path,
        isDirectory: false,
        source: { kind: 'inherited', reg },
        attributes: MOUNT_ATTR.NODEV | MOUNT_ATTR.NOSUID | (options.hasReadonlyRoot ? MOUNT_ATTR.RDONLY : 0),
        isRecursive: false,
      }),
    ),
  ];
}

function kernelMount(target: string, type: string, attributes: number, hostReg: Reg | undefined): RootMount {
  const place = { target, isDirectory: true, attributes };
  if (hostReg === undefined) return { ...place, source: { kind: 'new', type, options: [['source', type]] }, isRecursive: false };
  return { ...place, source: { kind: 'inherited', reg: hostReg }, isRecursive: true, showsKernel: true };
}

function cgroupMounts(cgroups: CgroupView): RootMount[] {
  const root = '/sys/fs/cgroup';
  const readonly = cgroups.isWritable ? 0 : MOUNT_ATTR.RDONLY;
  if (cgroups.version === 2) {
    const own = { kind: 'new', type: 'cgroup2', options: [['source', 'cgroup']] } as const;
    const source = cgroups.host === undefined ? own : ({ kind: 'inherited', reg: cgroups.host } as const);
    return [{ target: root, isDirectory: true, source, attributes: guarded | readonly, isRecursive: false }];
  }
  const options = [
    ['source', 'tmpfs'],
    ['mode', '755'],
  ] as const;
  return [
    {
      target: root,
      isDirectory: true,
      source: { kind: 'new', type: 'tmpfs', options },
      attributes: guarded,
      isRecursive: false,
      isSealedLast: true,
      keepAs: cgroupReg,
    },
    ...cgroups.hierarchies.map(
      ({ name, reg }): RootMount => ({
        target: `${root}/${name}`,
        isDirectory: true,
        source: { kind: 'inherited', reg },
        attributes: guarded | readonly,
        isRecursive: false,
      }),
    ),
  ];
}

/** Directories whose default mounts are all removed if a volume is mounted there. */
const replacedWhole = ['/dev', '/sys', '/proc'];

/**
 * Returns the default mounts that a container's volumes do not replace. A volume on /dev, /sys or /proc also replaces everything below.
 *
 * @param volumeTargets resolved through the links of the image, like the targets of the default mounts.
 */
export function withoutCovered(defaults: readonly RootMount[], volumeTargets: readonly string[]): RootMount[] {
  const targets = volumeTargets.map(normalPath);
  const replaced = replacedWhole.filter((path) => targets.includes(path));
  return defaults.filter(({ target }) => !targets.includes(target) && !replaced.some((path) => target.startsWith(`${path}/`)));
}
