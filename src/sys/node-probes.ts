/**
 * Single questions about this node, for `berth doctor` and the metrics: each is asked without changing anything, and none throws.
 */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { checked, isErrno, libc, SyscallError } from './call/ffi.ts';

/** Calls that a container's start is made of, by number: the same on every architecture. */
const neededCalls = {
  open_tree: 428,
  move_mount: 429,
  fsopen: 430,
  pidfd_open: 434,
  clone3: 435,
  close_range: 436,
  openat2: 437,
  mount_setattr: 442,
} as const;

const c_syscall = libc.func('long syscall(long nr, long a, long b, long c, long d, long e)');
const c_adjtimex = libc.func('int adjtimex(void *buf)');

/** Names of the calls that this kernel does not have, or a filter refuses. */
export function missingSystemCalls(): string[] {
  // Arguments that every one of them refuses; for close_range(2), a first fd above the last.
  const isMissing = (number: number) => errnoOf(() => c_syscall(number, -1, 0, 0, 0, 0)) === 'ENOSYS';
  return Object.entries(neededCalls).flatMap(([name, number]) => (isMissing(number) ? [name] : []));
}

function errnoOf(call: () => number | bigint): string | null {
  try {
    checked(call(), () => 'asking');
    return null;
  } catch (error) {
    return error instanceof SyscallError ? error.code : null;
  }
}

/** Whether a kernel module is loaded, or built in with parameters. */
export function hasModule(name: string): boolean {
  return existsSync(`/sys/module/${name}`);
}

/** @param name with dots. @returns null where the kernel has no such parameter. */
export function readSysctl(name: string): string | null {
  try {
    return readFileSync(`/proc/sys/${name.replaceAll('.', '/')}`, 'utf8').trim();
  } catch {
    return null;
  }
}

export type Space = { readonly freeBytes: number; readonly totalBytes: number; readonly freeInodes: number; readonly totalInodes: number };

/** Of the file system that holds the path, as an unprivileged user has it; null when it cannot be told. Some file systems count no inodes: 0 of 0. */
export function diskSpace(path: string): Space | null {
  try {
    const { bsize, bavail, blocks, ffree, files } = statfsSync(path);
    return { freeBytes: bavail * bsize, totalBytes: blocks * bsize, freeInodes: ffree, totalInodes: files };
  } catch (error) {
    return isErrno(error, 'ENOENT') && path !== '/' ? diskSpace(path.replace(/\/[^/]*\/*$/, '') || '/') : null;
  }
}

/** struct timex is 208 bytes on 64 bits; its first field, the modes to set, stays 0: nothing is set. */
const timexBytes = 208;
const TIME_ERROR = 5;

/** Whether somebody keeps the clock right, adjtimex(2); null when the kernel does not say. */
export function isClockSynchronized(): boolean | null {
  const state = c_adjtimex(Buffer.alloc(timexBytes));
  return state < 0 ? null : state !== TIME_ERROR;
}
