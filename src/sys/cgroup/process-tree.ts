/**
 * Kills a process and its descendants, but not the other processes of its cgroup.
 */
import { readFileSync } from 'node:fs';
import { isErrno } from '../call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../call/syscalls.ts';
import type { CgroupFacts } from './cgroup-facts.ts';
import { processes } from './cgroup-processes.ts';

const SIGKILL = 9;
/** The tree may grow while it is being killed: each round finds processes that the last one missed. */
const roundsMax = 20;

type Member = { readonly pid: number; readonly parent: number; readonly session: number };

/**
 * Kills a process, its descendants, and the session it leads, with SIGKILL.
 *
 * Processes that have left the session and whose parent has died are not found.
 */
export async function killTree(facts: CgroupFacts, cgroupPath: string, root: number): Promise<void> {
  for (let round = 0; round < roundsMax; round++) {
    const members = (await processes(facts, cgroupPath)).flatMap(readMember);
    const tree = treeOf(members, root);
    if (tree.length === 0) return;
    for (const pid of tree) killProcess(pid);
    await new Promise((resolve) => setTimeout(resolve, round));
  }
}

/** Returns the pids of the tree, including `root`. Pure. */
export function treeOf(members: readonly Member[], root: number): number[] {
  const found = new Set([root]);
  for (let size = 0; size !== found.size; ) {
    size = found.size;
    for (const { pid, parent, session } of members) if (found.has(parent) || session === root) found.add(pid);
  }
  return members.filter(({ pid }) => found.has(pid)).map(({ pid }) => pid);
}

/** Zombies are skipped: they have ended, and disappear when their parent reaps them. */
function readMember(pid: number): Member[] {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const [state, parent, , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' ? [] : [{ pid, parent: Number(parent), session: Number(session) }];
  } catch {
    return [];
  }
}

/** Kills one process with SIGKILL. Succeeds if it has ended. */
export function killProcess(pid: number): void {
  try {
    const pidfd = pidfdOpen(pid);
    try {
      pidfdSendSignal(pidfd, SIGKILL);
    } finally {
      close(pidfd);
    }
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}
