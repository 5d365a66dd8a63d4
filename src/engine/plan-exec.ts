/**
 * Plans a process inside a running container.
 *
 * Pure. The namespaces are those of the container's own process, joined all at once by its pidfd: setns(2).
 */

import { CLONE, O, RESOLVE } from './abi.ts';
import { planAppArmor } from './apparmor.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type ProcessPlan, planCgroupEntry, planOomScore, planStart } from './plan-container.ts';

export type ExecPlan = {
  readonly fds: readonly Reg[];
  readonly process: ProcessPlan;
  /** A pidfd of the container's process. */
  readonly target: Reg;
};

/** The namespaces of a container, but the pid namespace, which children get, and the user namespace. */
const shared = CLONE.NEWNS | CLONE.NEWNET | CLONE.NEWIPC | CLONE.NEWUTS | CLONE.NEWCGROUP;

export function planExec(exec: ExecPlan): Plan {
  const { process, target } = exec;
  return {
    fds: exec.fds,
    parent: [{ call: 'setns', fd: target, namespaces: CLONE.NEWPID, note: "joining the container's pid namespace" }],
    clone: { namespaces: 0, ...(process.cgroup.version === 2 ? { cgroup: process.cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(process.cgroup),
      ...planOomScore(process.oomScoreAdj),
      ...planAppArmor(process.appArmorProfile),
      { call: 'setsid', note: 'starting a session' },
      { call: 'setns', fd: target, namespaces: shared, note: "joining the container's namespaces" },
      ...planWorkingDir(process.workingDir),
      ...planStart(process),
    ],
    process: { argv: process.argv, env: process.env },
    supervise: { mode: 'exec' },
  };
}

/** A container may have made its working directory a link into /proc, to one of our own files: refused. */
function planWorkingDir(path: string): Op[] {
  const how = { flags: O.PATH | O.DIRECTORY | O.CLOEXEC, resolve: RESOLVE.NO_MAGICLINKS };
  return [
    { call: 'openat2', dir: 'cwd', path, how, out: 'directory', note: `opening ${path}` },
    { call: 'fchdir', fd: 'directory', note: `entering ${path}` },
  ];
}
