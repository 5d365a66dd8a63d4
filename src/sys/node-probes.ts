/**
 * Probes of single properties of the node, for `berth doctor` and the metrics. They change nothing and never throw.
 */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { checked, isErrno, libc, SyscallError } from './call/ffi.ts';

/** System calls that berth needs, with their numbers, which are the same on all architectures. */
const requiredCalls = {
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

/** Returns the names of required calls that the kernel lacks or a seccomp filter blocks with ENOSYS. */
export function missingSystemCalls(): string[] {
  // All of them reject these arguments. For close_range(2), the first fd is above the last.
  const isMissing = (number: number) => errnoOf(() => c_syscall(number, -1, 0, 0, 0, 0)) === 'ENOSYS';
  return Object.entries(requiredCalls).flatMap(([name, number]) => (isMissing(number) ? [name] : []));
}

function errnoOf(call: () => number | bigint): string | null {
  try {
    checked(call(), () => 'probe');
    return null;
  } catch (error) {
    return error instanceof SyscallError ? error.code : null;
  }
}

/** Returns whether a kernel module is loaded, or built in with parameters. */
export function hasModule(name: string): boolean {
  return existsSync(`/sys/module/${name}`);
}

/** @param name with dots. @returns null if the kernel does not have the sysctl. */
export function readSysctl(name: string): string | null {
  try {
    return readFileSync(`/proc/sys/${name.replaceAll('.', '/')}`, 'utf8').trim();
  } catch {
    return null;
  }
}

export type Space = { readonly freeBytes: number; readonly totalBytes: number; readonly freeInodes: number; readonly totalInodes: number };

/**
 * Returns the space of the file system that contains the path, or its nearest existing parent; free space is that of an unprivileged user. Null if it
 * cannot be read. Some file systems do not count inodes and report 0 of 0.
 */
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

/** Returns whether the clock is synchronized (adjtimex(2)); null if it cannot be read. */
export function isClockSynchronized(): boolean | null {
  const state = c_adjtimex(Buffer.alloc(timexBytes));
  return state < 0 ? null : state !== TIME_ERROR;
}
