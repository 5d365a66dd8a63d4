/**
 * Plans the one process a sandbox may have: pid 1 of a pid namespace that its containers share, which reaps what they leave.
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
  /** The sandbox's user namespace, which the pid namespace is to belong to. */
  readonly user?: Reg;
  readonly cgroup: CgroupEntry;
  readonly oomScoreAdj: number;
};

export function planReaper(reaper: ReaperPlan): Plan {
  return {
    fds: reaper.fds,
    parent: [],
    clone: { namespaces: reaper.user === undefined ? CLONE.NEWPID : 0, ...(reaper.cgroup.version === 2 ? { cgroup: reaper.cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(reaper.cgroup),
      ...planOomScore(reaper.oomScoreAdj),
      ...reaper.namespaces.map((ns): Op => ({ call: 'setns', fd: ns.reg, namespaces: ns.flag, note: `joining the sandbox's ${ns.what} namespace` })),
      ...(reaper.user === undefined ? [] : planUser(reaper.user)),
      { call: 'setsid', note: 'starting a session' },
      { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'marking all files to be closed' },
      { call: 'reap', note: 'reaping' },
    ],
    process: { argv: ['berth-pod'], env: [] },
    supervise: { mode: 'none' },
  };
}

function planUser(user: Reg): Op[] {
  return [...joinUser(user), { call: 'move', namespaces: CLONE.NEWPID, note: "making the pod's pid namespace" }];
}
