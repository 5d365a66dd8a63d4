/**
 * What pods leave behind in a directory of life.ts and in this pid namespace, which has nobody but the tests.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cgroupDirectories } from '../../support/cgroups.ts';

/** What was stopped by the test runs on. */
export function goOn(): void {
  for (const pid of strangers()) {
    try {
      process.kill(pid, 'SIGCONT');
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** A monitor that was told to end does so a moment later. */
export async function tracesAtEnd(directory: string, cgroup: string): Promise<unknown> {
  for (let waits = 0; waits < 100 && strangers().length > 0; waits += 1) await sleep(10);
  return tracesIn(directory, cgroup);
}

export function tracesIn(directory: string, cgroup: string): unknown {
  return {
    processes: strangers().map(commandOf),
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

/** What runs here besides the tests; this pid namespace has nobody else. */
export function strangers(): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => !/^$|node|^sh /.test(commandOf(pid)));
}

/** '' for a zombie. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
