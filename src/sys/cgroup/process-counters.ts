/**
 * Counts the open files of a cgroup's processes. Reads /proc, and yields to the event loop regularly.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type CgroupFacts, controllerDirectory } from './cgroup-facts.ts';
import { checkPath, directoriesFrom, readOrEmpty, words } from './cgroup-files.ts';

export type ProcessCounters = { readonly processes: number; readonly fds: number; readonly sockets: number };

const fdsPerTurn = 256;

/** Counts all processes of the cgroup and its descendants. For a process that ends in the meantime, only part of its files may count. */
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
    // The process has ended.
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

/** Returns the soft limit of open files of a process; null if it is unlimited, or the process has ended. */
export function openFilesLimit(pid: number): number | null {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'latin1'))?.[1];
    return soft === undefined ? null : Number(soft);
  } catch {
    return null;
  }
}
