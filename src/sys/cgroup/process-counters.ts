/**
 * What the processes of a cgroup hold open. Reads /proc, some hundred entries a turn.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type CgroupFacts, controllerDirectory } from './cgroup-facts.ts';
import { checkPath, directoriesFrom, readOrEmpty, words } from './cgroup-files.ts';

export type ProcessCounters = { readonly processes: number; readonly fds: number; readonly sockets: number };

const fdsPerTurn = 256;

/** All processes in the cgroup and below it. One that ends meanwhile counts for what was seen of it. */
export async function countOpenFiles(facts: CgroupFacts, path: string): Promise<ProcessCounters> {
  checkPath(path);
  const top = controllerDirectory(facts, path, 'pids') ?? controllerDirectory(facts, path, 'memory');
  let [processes, fds, sockets] = [0, 0, 0];
  if (top === null) return { processes, fds, sockets };
  for await (const directory of directoriesFrom(top)) {
    for (const pid of words(readOrEmpty(`${directory}/cgroup.procs`))) {
      processes += 1;
      for (const fd of fdsOf(pid)) {
        fds += 1;
        if (isSocket(pid, fd)) sockets += 1;
        if (fds % fdsPerTurn === 0) await nextTurn();
      }
    }
  }
  return { processes, fds, sockets };
}

function fdsOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`);
  } catch {
    // It has ended.
    return [];
  }
}

function isSocket(pid: string, fd: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
  } catch {
    return false;
  }
}

/** Soft limit of open files of a process; null when it has none, or has ended. */
export function openFilesLimit(pid: number): number | null {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'))?.[1];
    return soft === undefined ? null : Number(soft);
  } catch {
    return null;
  }
}
