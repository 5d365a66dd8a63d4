/**
 * The daemon's own resource limits. Without CAP_SYS_RESOURCE, it cannot give higher limits to its children.
 */
import { readFileSync } from 'node:fs';

/** `unlimited`: RLIM_INFINITY. */
const unlimited = (1n << 64n) - 1n;

/** Names in proc_pid_limits(5), by the names of setrlimit(2) without `RLIMIT_`. */
const rows = {
  CPU: 'Max cpu time',
  FSIZE: 'Max file size',
  DATA: 'Max data size',
  STACK: 'Max stack size',
  CORE: 'Max core file size',
  RSS: 'Max resident set',
  NPROC: 'Max processes',
  NOFILE: 'Max open files',
  MEMLOCK: 'Max locked memory',
  AS: 'Max address space',
  LOCKS: 'Max file locks',
  SIGPENDING: 'Max pending signals',
  MSGQUEUE: 'Max msgqueue size',
  NICE: 'Max nice priority',
  RTPRIO: 'Max realtime priority',
  RTTIME: 'Max realtime timeout',
} as const;

type LimitName = keyof typeof rows;

/** Returns a hard limit of this process. */
export function hardLimit(name: LimitName): bigint {
  return parseHardLimit(readFileSync('/proc/self/limits', 'utf8'), name);
}

/** @param text of /proc/PID/limits: name, soft, hard and unit in columns. Pure. */
export function parseHardLimit(text: string, name: LimitName): bigint {
  const row = text.split('\n').find((line) => line.startsWith(rows[name]));
  const hard = row?.slice(rows[name].length).trim().split(/\s+/)[1] ?? 'unlimited';
  return hard === 'unlimited' ? unlimited : BigInt(hard);
}
