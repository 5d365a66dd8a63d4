/**
 * Plans a hook: a program of the host that modifies a container before or after its process starts.
 *
 * Pure. As in the OCI runtime specification, a hook has all privileges of the daemon: only the node's administrator can write its CDI files.
 */

import type { Hook } from '../state/spec.ts';
import { CLONE, CLOSE_RANGE } from './abi.ts';
import { confineMonitor } from './confine-monitor.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { becomeRoot, type CgroupEntry, planCgroupEntry, planKeyring, planOomScore } from './process-setup.ts';

export type HookPlan = {
  /** All inherited registers. `state` is its stdin, `output` its stdout and stderr. */
  readonly fds: readonly Reg[];
  readonly hook: Hook;
  /** Its working directory, the bundle. */
  readonly bundle: string;
  /** Of the container, which the hook works for: the kernel kills both before the daemon. Clamped to what the daemon may set. */
  readonly oomScoreAdj: number;
  /** For a hook in the container's namespaces, where the host's tree is still visible; undefined: the hook runs in the host's namespaces. */
  readonly container?: {
    /** A pidfd of the process whose plan waits. */
    readonly target: Reg;
    readonly cgroup: CgroupEntry;
    readonly isInUserNamespace: boolean;
  };
};

const namespaces = CLONE.NEWNS | CLONE.NEWNET | CLONE.NEWIPC | CLONE.NEWUTS | CLONE.NEWCGROUP;

/** Returns the plan of a hook. */
export function planHook({ fds, hook, bundle, oomScoreAdj, container }: HookPlan): Plan {
  const cgroup = container?.cgroup;
  return {
    fds,
    parent:
      container === undefined
        ? []
        : [{ call: 'setns', fd: container.target, namespaces: CLONE.NEWPID, note: 'join the pid namespace of the container' }],
    clone: { namespaces: 0, ...(cgroup?.version === 2 ? { cgroup: cgroup.directory } : {}) },
    child: [
      ...(cgroup === undefined ? [] : planCgroupEntry(cgroup)),
      ...planOomScore(oomScoreAdj),
      { call: 'setsid', note: 'start a session' },
      ...(container === undefined ? [] : enterContainer(container)),
      { call: 'chdir', path: bundle, note: `change the working directory to ${bundle}` },
      ...['state', 'output', 'output'].map((fd, to): Op => ({ call: 'dup3', fd, to, flags: 0, note: `set fd ${to}` })),
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all other fds' },
      { call: 'umask', mask: 0o022, note: 'set the umask' },
      { call: 'execve', path: hook.path, note: `start ${JSON.stringify(hook.path)}` },
    ],
    confine: confineMonitor(),
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
      note: 'join the namespaces of the container',
    },
    ...(isInUserNamespace ? becomeRoot() : []),
    ...planKeyring(undefined),
  ];
}
