/**
 * Plans the reaper: pid 1 of a pid namespace that the containers of a sandbox share. It is the only process that a sandbox may have.
 *
 * Pure. The containers see the reaper, and one with CAP_SYS_PTRACE gets at whatever it has, as /proc/1/root. It therefore has nothing: an empty root,
 * and no capabilities.
 */
import { CLONE, CLOSE_RANGE, FSOPEN, MOUNT_ATTR, PR } from './abi.ts';
import { attachRoot, enterRoot, isolateMounts, rootReg } from './enter-rootfs.ts';
import type { Op, Plan, Reg } from './plan.ts';
import type { JoinedNamespace } from './plan-container.ts';
import { type CgroupEntry, joinUser, planCgroupEntry, planOomScore } from './process-setup.ts';

export type ReaperPlan = {
  readonly fds: readonly Reg[];
  readonly namespaces: readonly JoinedNamespace[];
  /** The sandbox's user namespace, which will own the pid namespace. */
  readonly user?: Reg;
  readonly cgroup: CgroupEntry;
  readonly oomScoreAdj: number;
};

/** Returns the plan of the reaper. */
export function planReaper(reaper: ReaperPlan): Plan {
  return {
    fds: reaper.fds,
    parent: [],
    clone: { namespaces: reaper.user === undefined ? ownNamespaces : 0, ...(reaper.cgroup.version === 2 ? { cgroup: reaper.cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(reaper.cgroup),
      ...planOomScore(reaper.oomScoreAdj),
      ...reaper.namespaces.map(
        (ns): Op => ({ call: 'setns', fd: ns.reg, namespaces: ns.flag, note: `join the ${ns.what} namespace of the sandbox` }),
      ),
      ...(reaper.user === undefined ? [] : planUser(reaper.user)),
      { call: 'setsid', note: 'start a session' },
      ...enterEmptyRoot(),
      ...dropPrivileges(),
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all fds' },
      { call: 'reap', note: 'reap orphans' },
    ],
    process: { argv: ['berth-pod'], env: [] },
    supervise: { mode: 'none' },
  };
}

const ownNamespaces = CLONE.NEWPID | CLONE.NEWNS;

function planUser(user: Reg): Op[] {
  return [...joinUser(user), { call: 'move', namespaces: ownNamespaces, note: 'create the pid namespace of the pod' }];
}

function enterEmptyRoot(): Op[] {
  const attributes = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;
  return [
    isolateMounts(),
    { call: 'fsopen', type: 'tmpfs', flags: FSOPEN.CLOEXEC, out: 'tmpfs', note: 'open tmpfs' },
    { call: 'fsconfig_create', fs: 'tmpfs', note: 'create an empty file system' },
    { call: 'fsmount', fs: 'tmpfs', flags: FSOPEN.CLOEXEC, attributes, out: rootReg, note: 'mount an empty file system' },
    attachRoot('.'),
    ...enterRoot(),
  ];
}

function dropPrivileges(): Op[] {
  return [
    { call: 'prctl', option: PR.SET_NO_NEW_PRIVS, a: 1, b: 0, c: 0, d: 0, note: 'set no_new_privs' },
    { call: 'capset', capabilities: { effective: 0n, permitted: 0n, inheritable: 0n }, note: 'drop all capabilities' },
  ];
}
