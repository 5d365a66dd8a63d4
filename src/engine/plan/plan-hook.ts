/**
 * Plans a hook: a program of the host's that works on a container before its own starts, or beside it.
 *
 * Pure. It keeps all of the daemon's rights, as the OCI runtime specification has it: whoever writes the node's device files is its administrator.
 */

import type { Hook } from '../state/spec.ts';
import { CLONE, CLOSE_RANGE } from './abi.ts';
import { becomeRoot } from './join-user.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type CgroupEntry, planCgroupEntry } from './plan-container.ts';

export type HookPlan = {
  /** All of them; among them `state` and `output`, its input and its output. */
  readonly fds: readonly Reg[];
  readonly hook: Hook;
  /** The directory that it works in: its bundle. */
  readonly bundle: string;
  /** For one that runs in the container's namespaces, where the host's tree is still in cgroupView; undefined: in the host's. */
  readonly container?: {
    /** A pidfd of the held process. */
    readonly target: Reg;
    readonly cgroup: CgroupEntry;
    readonly isInUserNamespace: boolean;
  };
};

const namespaces = CLONE.NEWNS | CLONE.NEWNET | CLONE.NEWIPC | CLONE.NEWUTS | CLONE.NEWCGROUP;

export function planHook({ fds, hook, bundle, container }: HookPlan): Plan {
  const cgroup = container?.cgroup;
  return {
    fds,
    parent:
      container === undefined
        ? []
        : [{ call: 'setns', fd: container.target, namespaces: CLONE.NEWPID, note: "joining the container's pid namespace" }],
    clone: { namespaces: 0, ...(cgroup?.version === 2 ? { cgroup: cgroup.directory } : {}) },
    child: [
      ...(cgroup === undefined ? [] : planCgroupEntry(cgroup)),
      { call: 'setsid', note: 'starting a session' },
      ...(container === undefined ? [] : enterContainer(container)),
      { call: 'chdir', path: bundle, note: `entering ${bundle}` },
      ...['state', 'output', 'output'].map((fd, to): Op => ({ call: 'dup3', fd, to, flags: 0, note: `connecting fd ${to}` })),
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'closing all other files at the start' },
      { call: 'umask', mask: 0o022, note: 'setting the umask' },
      { call: 'execve', path: hook.path, note: `starting ${JSON.stringify(hook.path)}` },
    ],
    process: { argv: hook.argv, env: hook.env },
    supervise: { mode: 'exec' },
  };
}

function enterContainer({ target, isInUserNamespace }: NonNullable<HookPlan['container']>): Op[] {
  return [
    {
      call: 'setns',
      fd: target,
      namespaces: namespaces | (isInUserNamespace ? CLONE.NEWUSER : 0),
      note: "joining the container's namespaces",
    },
    ...(isInUserNamespace ? becomeRoot() : []),
  ];
}
