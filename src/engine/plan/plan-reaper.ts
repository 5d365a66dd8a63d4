/**
 * Plans the reaper: pid 1 of a pid namespace that the containers of a sandbox share. It is the only process that a sandbox may have.
 *
 * Pure.
 */
import { CLONE, CLOSE_RANGE } from './abi.ts';
import { joinUser } from './join-user.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type CgroupEntry, type JoinedNamespace, planCgroupEntry, planOomScore } from './plan-container.ts';

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
    clone: { namespaces: reaper.user === undefined ? CLONE.NEWPID : 0, ...(reaper.cgroup.version === 2 ? { cgroup: reaper.cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(reaper.cgroup),
      ...planOomScore(reaper.oomScoreAdj),
      ...reaper.namespaces.map(
        (ns): Op => ({ call: 'setns', fd: ns.reg, namespaces: ns.flag, note: `join the ${ns.what} namespace of the sandbox` }),
      ),
      ...(reaper.user === undefined ? [] : planUser(reaper.user)),
      { call: 'setsid', note: 'start a session' },
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all fds' },
      { call: 'reap', note: 'reap orphans' },
    ],
    process: { argv: ['berth-pod'], env: [] },
    supervise: { mode: 'none' },
  };
}

function planUser(user: Reg): Op[] {
  return [...joinUser(user), { call: 'move', namespaces: CLONE.NEWPID, note: 'create the pid namespace of the pod' }];
}
