/**
 * Plans a process inside a running container.
 *
 * Pure. The namespaces are those of the container's own process, joined all at once by its pidfd: setns(2).
 */

import { CLONE, O, RESOLVE } from './abi.ts';
import { planAppArmor } from './apparmor.ts';
import { planRlimits } from './credentials.ts';
import { planExecTerminal } from './devices.ts';
import { becomeRoot } from './join-user.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { type ProcessPlan, planCgroupEntry, planOomScore, planStart, withoutLimits } from './plan-container.ts';

export type ExecPlan = {
  readonly fds: readonly Reg[];
  readonly process: ProcessPlan;
  /** A pidfd of the container's process. */
  readonly target: Reg;
  /** With a terminal (`process.stdio` null): a unix socket that takes its other side to the daemon. */
  readonly terminalSocket?: Reg;
  /** Whether the container has a user namespace other than the host's. */
  readonly isInUserNamespace: boolean;
};

/** The namespaces of a container, but the pid namespace, which children get, and the user namespace, which one cannot join twice: setns(2). */
const shared = CLONE.NEWNS | CLONE.NEWNET | CLONE.NEWIPC | CLONE.NEWUTS | CLONE.NEWCGROUP;

export function planExec(exec: ExecPlan): Plan {
  const { process, target, isInUserNamespace } = exec;
  const namespaces = shared | (isInUserNamespace ? CLONE.NEWUSER : 0);
  return {
    fds: exec.fds,
    parent: [{ call: 'setns', fd: target, namespaces: CLONE.NEWPID, note: "joining the container's pid namespace" }],
    clone: { namespaces: 0, ...(process.cgroup.version === 2 ? { cgroup: process.cgroup.directory } : {}) },
    child: [
      ...planCgroupEntry(process.cgroup),
      ...planOomScore(process.oomScoreAdj),
      ...planAppArmor(process.appArmorProfile),
      { call: 'setsid', note: 'starting a session' },
      // Limits and what else is the host's, while it may.
      ...(isInUserNamespace ? planRlimits(process.credentials.rlimits) : []),
      { call: 'setns', fd: target, namespaces, note: "joining the container's namespaces" },
      ...(isInUserNamespace ? becomeRoot() : []),
      ...planTerminal(exec),
      ...planWorkingDir(process.workingDir),
      ...planStart(isInUserNamespace ? withoutLimits(process) : process),
    ],
    process: { argv: process.argv, env: process.env },
    supervise: { mode: 'exec' },
  };
}

function planTerminal({ process, terminalSocket }: ExecPlan): Op[] {
  if (terminalSocket === undefined) return [];
  return planExecTerminal(process.credentials.uid, terminalSocket);
}

/** A container may have made its working directory a link into /proc, to one of our own files: refused. */
function planWorkingDir(path: string): Op[] {
  const how = { flags: O.PATH | O.DIRECTORY | O.CLOEXEC, resolve: RESOLVE.NO_MAGICLINKS };
  return [
    { call: 'openat2', dir: 'cwd', path, how, out: 'directory', note: `opening ${path}` },
    { call: 'fchdir', fd: 'directory', note: `entering ${path}` },
  ];
}
