/**
 * Finds what pods leave behind in a directory of pod-lifecycle.ts and in this pid namespace, which contains only the tests and their children.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupDirectories } from '../../support/cgroups.ts';

/** Sends a signal to all processes of pods, such as SIGCONT to those that a kill point has stopped. */
export function signalProcesses(signal: NodeJS.Signals): void {
  for (const pid of otherProcesses()) {
    try {
      process.kill(pid, signal);
    } catch {
      // It has exited meanwhile.
    }
  }
}

/** Like findLeftovers(), but waits up to one second for processes to exit: a monitor exits some time after it is told to. */
export async function findLeftoversAfterExit(directory: string, cgroup: string): Promise<unknown> {
  for (let waits = 0; waits < 100 && otherProcesses().length > 0; waits += 1) await sleep(10);
  return findLeftovers(directory, cgroup);
}

/** Returns the remaining processes, mounts, cgroups and files of pods. */
export function findLeftovers(directory: string, cgroup: string): unknown {
  return {
    processes: otherProcesses().map(commandOf),
    mounts: readFileSync('/proc/self/mounts', 'utf8').split('\n').length,
    cgroups: cgroupDirectories(cgroup).flatMap((path) =>
      readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name),
    ),
    files: ['state/sandboxes', 'state/containers', 'netns', 'root/containers', 'root/cni/results', 'leases'].flatMap((path) =>
      namesIn(join(directory, path)),
    ),
  };
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Returns the pids of all processes in this pid namespace except the tests. */
export function otherProcesses(): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => !/^$|node|^sh /.test(commandOf(pid)));
}

/** Returns the command line, or '' for a zombie. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
