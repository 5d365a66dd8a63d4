/**
 * Processes by pidfd: waiting, reaping, and knowing a process again by its start time.
 */
import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { libc } from '../call/ffi.ts';

const c_waitpid = libc.func('int waitpid(int pid, void *status, int options)');
const WNOHANG = 1;

/**
 * Calls back once, when `fd` becomes readable (a pidfd: when its process has ended; a pipe: data or end).
 * Costs no thread. @returns a function that stops watching.
 */
export function onReadable(fd: number, callback: () => void): () => void {
  let isDone = false;
  // uv_poll. Its callback does not drain microtasks on every Node, hence setImmediate.
  const handle = koffi.node.poll(fd, { readable: true, disconnect: true }, () => {
    if (isDone) return;
    isDone = true;
    handle.close();
    setImmediate(callback);
  });
  return () => {
    if (isDone) return;
    isDone = true;
    handle.close();
  };
}

/** onReadable() as a promise. */
export function whenReadable(fd: number): Promise<void> {
  return new Promise((resolve) => {
    onReadable(fd, resolve);
  });
}

/** Reaps a child that has ended. @returns its wait status, or null when it has not ended or is not a child of ours. */
export function reap(pid: number): number | null {
  const status = Buffer.alloc(4);
  const result: number = c_waitpid(pid, status, WNOHANG);
  return result === pid ? status.readInt32LE(0) : null;
}

/**
 * When a process started, in clock ticks since boot, as text: with the pid it names the process for as long as the kernel runs.
 * Field 22 of /proc/PID/stat, proc_pid_stat(5). @returns null when there is no such process.
 */
export function processStartTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command name, field 2, may hold anything; nothing after its last parenthesis can.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

/** True when the process is there and not a zombie. */
export function isAlive(pid: number, startTime: string): boolean {
  return processStartTime(pid) === startTime && !isZombie(pid);
}

/**
 * A process' part of the memory in use, in bytes: its own pages, and of those shared its share (Pss, proc_pid_smaps(5)); 0 when it has gone.
 * Counted by page: the sums of proc_pid_status(5) lag behind, and for a process of some tens of KiB may be 0.
 */
export function proportionalBytes(pid: number): number {
  try {
    const [, kib = '0'] = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1')) ?? [];
    return 1024 * Number(kib);
  } catch {
    return 0;
  }
}

function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return /^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2));
  } catch {
    return true;
  }
}
