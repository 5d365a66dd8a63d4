/**
 * Plans a process inside a running container.
 *
 * Pure. The process joins all namespaces of the container's first process at once, through its pidfd: setns(2).
 */

import { CLONE, O, RESOLVE } from './abi.ts';
import { confineMonitor } from './confine-monitor.ts';
import { planExecTerminal } from './devices.ts';
import type { Op, Plan, Reg } from './plan.ts';
import { becomeRoot, enterWorkingDir, type ProcessPlan, planProcessSetup } from './process-setup.ts';

export type ExecPlan = {
  readonly fds: readonly Reg[];
  readonly process: ProcessPlan;
  /** A pidfd of the container's first process. */
  readonly target: Reg;
  /** With a terminal (`process.stdio` null): a Unix socket that passes the master to the daemon. */
  readonly terminalSocket?: Reg;
  /** Whether the container's user namespace is not the host's. */
  readonly isInUserNamespace: boolean;
};

/** The namespaces to join. Not the pid namespace, which only children enter, nor the user namespace, which cannot be joined twice: setns(2). */
const shared = CLONE.NEWNS | CLONE.NEWNET | CLONE.NEWIPC | CLONE.NEWUTS | CLONE.NEWCGROUP;

/** Returns the plan of a process in a running container. */
export function planExec(exec: ExecPlan): Plan {
  const { process, target, isInUserNamespace } = exec;
  const namespaces = shared | (isInUserNamespace ? CLONE.NEWUSER : 0);
  return {
    fds: exec.fds,
    parent: [{ call: 'setns', fd: target, namespaces: CLONE.NEWPID, note: 'join the pid namespace of the container' }],
    clone: { namespaces: 0, ...(process.cgroup.version === 2 ? { cgroup: process.cgroup.directory } : {}) },
    child: planProcessSetup(process, {
      entersUser: isInUserNamespace,
      enter: [{ call: 'setns', fd: target, namespaces, note: 'join the namespaces of the container' }, ...(isInUserNamespace ? becomeRoot() : [])],
      prepare: [...planTerminal(exec), ...planWorkingDir(process.workingDir)],
    }),
    confine: confineMonitor(),
    process: { argv: process.argv, env: process.env },
    supervise: { mode: 'exec' },
  };
}

function planTerminal({ process, terminalSocket }: ExecPlan): Op[] {
  if (terminalSocket === undefined) return [];
  return planExecTerminal(process.credentials.uid, terminalSocket);
}

/** Refuses magic links: a container may have made its working directory a link into /proc, to one of our fds. */
function planWorkingDir(path: string): Op[] {
  const how = { flags: O.PATH | O.DIRECTORY | O.CLOEXEC, resolve: RESOLVE.NO_MAGICLINKS };
  return [{ call: 'openat2', dir: 'cwd', path, how, out: 'directory', note: `open ${path}` }, ...enterWorkingDir('directory', path)];
}
