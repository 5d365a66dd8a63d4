/**
 * Waits for processes, reaps them, and identifies them by pid and start time.
 */
import { readFileSync } from 'node:fs';
import koffi from 'koffi';
import { libc } from '../call/ffi.ts';

const c_waitpid = libc.func('int waitpid(int pid, void *status, int options)');
const WNOHANG = 1;

/**
 * Calls back once, when `fd` becomes readable (a pidfd: its process has ended; a pipe: data or end of file).
 * Uses no thread. @returns a function that stops watching.
 */
export function onReadable(fd: number, callback: () => void): () => void {
  let isDone = false;
  // setImmediate, because the callback of uv_poll does not drain microtasks in every Node version.
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

/** Like onReadable(), as a promise. */
export function whenReadable(fd: number): Promise<void> {
  return new Promise((resolve) => {
    onReadable(fd, resolve);
  });
}

/** Reaps a child that has ended. @returns its wait status, or null if it has not ended or is not a child of this process. */
export function reap(pid: number): number | null {
  const status = Buffer.alloc(4);
  const result: number = c_waitpid(pid, status, WNOHANG);
  return result === pid ? status.readInt32LE(0) : null;
}

/**
 * Returns the start time of a process in clock ticks since boot, as text. Together with the pid it identifies the process until the next boot.
 * Field 22 of /proc/PID/stat, proc_pid_stat(5). Null if the process does not exist.
 */
export function processStartTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    // The command name, field 2, may contain any character, so parse after the last parenthesis.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

/** Returns true if the process exists and is not a zombie. */
export function isAlive(pid: number, startTime: string): boolean {
  return processStartTime(pid) === startTime && !isZombie(pid);
}

/**
 * Returns the proportional set size of a process in bytes (Pss, proc_pid_smaps(5)): its private pages and its share of shared pages. 0 if it has ended.
 * Pss is counted by page, while the sums in proc_pid_status(5) lag behind and may be 0 for a process of some tens of KiB.
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
