/**
 * The mounts that every container has unless its own cover them: /proc, /dev, /sys, cgroups, and the sandbox's files in /etc.
 *
 * Pure.
 */
import { MOUNT_ATTR, MS } from './abi.ts';
import { devMounts } from './devices.ts';
import { normalPath, type RootMount } from './mounts.ts';
import type { Reg } from './plan.ts';

const guarded = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;

/**
 * Where cgroups are to be seen. v1: one register a hierarchy, already bound to the container's own part. v2: a mount of its own in a
 * cgroup namespace, or the host's as a register: a new mount from the host's namespace would reset the options of the one hierarchy there is.
 */
export type CgroupView =
  | { readonly version: 2; readonly host?: Reg }
  | {
      readonly version: 1;
      readonly hierarchies: readonly { readonly name: string; readonly reg: Reg }[];
      readonly links: readonly { readonly name: string; readonly target: string }[];
    };

export type StandardMounts = {
  readonly isPrivileged: boolean;
  readonly hasReadonlyRoot: boolean;
  readonly cgroups: CgroupView;
  /** The sandbox's /dev/shm, or the host's. */
  readonly shm: Reg;
  /** The host's own, where the pod's user namespace may make none: its pids, network or ipc are the host's. */
  readonly fromHost?: { readonly proc?: Reg; readonly sys?: Reg; readonly mqueue?: Reg | null };
  /** Files of the sandbox, by their path in the container. */
  readonly files: readonly { readonly path: string; readonly reg: Reg }[];
};

export const cgroupReg: Reg = 'cgroups';

export function standardMounts(given: StandardMounts): RootMount[] {
  const { fromHost = {} } = given;
  return [
    kernelMount('/proc', 'proc', guarded, fromHost.proc),
    ...devMounts(given.shm, fromHost.mqueue),
    kernelMount('/sys', 'sysfs', guarded | (given.isPrivileged ? 0 : MOUNT_ATTR.RDONLY), fromHost.sys),
    ...cgroupMounts(given.cgroups, given.isPrivileged),
    ...given.files.map(
      ({ path, reg }): RootMount => ({
        target: path,
        isDirectory: false,
        source: { kind: 'inherited', reg },
        attributes: MOUNT_ATTR.NODEV | MOUNT_ATTR.NOSUID | (given.hasReadonlyRoot ? MOUNT_ATTR.RDONLY : 0),
        isRecursive: false,
      }),
    ),
  ];
}

function kernelMount(target: string, type: string, attributes: number, hostReg: Reg | undefined): RootMount {
  const place = { target, isDirectory: true, attributes };
  if (hostReg === undefined) return { ...place, source: { kind: 'new', type, options: [['source', type]] }, isRecursive: false };
  return { ...place, source: { kind: 'inherited', reg: hostReg }, isRecursive: true, propagation: MS.PRIVATE };
}

function cgroupMounts(cgroups: CgroupView, isPrivileged: boolean): RootMount[] {
  const root = '/sys/fs/cgroup';
  const readonly = isPrivileged ? 0 : MOUNT_ATTR.RDONLY;
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

/** Mount points whose own default mounts go when a volume is put there. */
const takenWhole = ['/dev', '/sys', '/proc'];

/** The defaults that are left beside a container's own volumes: a volume on /dev, /sys or /proc takes all below it too. */
export function withoutCovered(defaults: readonly RootMount[], volumeTargets: readonly string[]): RootMount[] {
  const targets = volumeTargets.map(normalPath);
  const taken = takenWhole.filter((path) => targets.includes(path));
  return defaults.filter(({ target }) => !targets.includes(target) && !taken.some((path) => target.startsWith(`${path}/`)));
}
