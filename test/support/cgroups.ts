/**
 * Finds and removes the cgroups of a test, in all hierarchies.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const top = '/sys/fs/cgroup';

/** Returns the directories of a cgroup, one for each hierarchy in which it exists. @param name for example `berth-test-17`. */
export function cgroupDirectories(name: string): string[] {
  const hierarchies = existsSync(join(top, 'cgroup.procs')) ? [top] : readdirSync(top).map((hierarchy) => join(top, hierarchy));
  return hierarchies.map((hierarchy) => join(hierarchy, name)).filter((path) => existsSync(path));
}

/** Kills the remaining processes and removes the cgroup and its descendants. Succeeds if it does not exist. */
export async function removeCgroup(name: string): Promise<void> {
  for (const directory of cgroupDirectories(name)) {
    for (let attempt = 0; attempt < 50 && !removeTree(directory); attempt += 1) await sleep(100);
  }
}

function removeTree(directory: string): boolean {
  try {
    const children = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const isEmpty = children.map((child) => removeTree(join(directory, child.name))).every((done) => done);
    const pids = readFileSync(join(directory, 'cgroup.procs'), 'utf8')
      .split('\n')
      .filter((pid) => pid !== '' && pid !== '0');
    for (const pid of pids) process.kill(Number(pid), 'SIGKILL');
    if (isEmpty) rmdirSync(directory);
    return isEmpty && pids.length === 0;
  } catch {
    return !existsSync(directory);
  }
}
