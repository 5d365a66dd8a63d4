/**
 * The C library through koffi: opening it, and turning -1 with an errno into an error that names the call.
 *
 * Only files of src/sys import this. Nothing here blocks or decides.
 */
import { constants } from 'node:os';
import koffi from 'koffi';

/** Errno numbers by name, from the C library's headers as Node knows them. */
export const errnoByName: Readonly<Record<string, number>> = constants.errno;

const nameByErrno = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

/** `ENOENT` for 2. Unknown numbers give `errno 999`. */
function errnoName(errno: number): string {
  return nameByErrno.get(errno) ?? `errno ${errno}`;
}

/**
 * A shared library, loaded by its soname, whose own symbols come first (RTLD_DEEPBIND, dlopen(3)): Node exports a zstd and an OpenSSL of its own
 * versions, and libzstd would call those functions with structures of another layout.
 *
 * @throws {Error} when it is not on the node.
 */
export function library(soname: string): ReturnType<typeof koffi.load> {
  return koffi.load(soname, { deep: true });
}

/** glibc's; berth's daemon needs it anyway, for Node is linked against it. */
export const libc = library('libc.so.6');

const strerror = libc.func('const char *strerror(int errnum)');

/** `no such file or directory (ENOENT)`, as strerror(3) has it. */
export function errnoText(errno: number): string {
  const text = String(strerror(errno));
  return `${text.charAt(0).toLowerCase()}${text.slice(1)} (${errnoName(errno)})`;
}

/** A system call that failed. `attempt` is the call with its arguments, in words a person can use. */
export class SyscallError extends Error {
  readonly attempt: string;
  readonly errno: number;
  /** `ENOENT` and the like. */
  readonly code: string;

  constructor(attempt: string, errno: number) {
    super(`${attempt}: ${errnoText(errno)}`);
    this.name = 'SyscallError';
    this.attempt = attempt;
    this.errno = errno;
    this.code = errnoName(errno);
  }
}

/**
 * Gives back a call's result, or throws what errno says when it is negative.
 * To be called right after the koffi call, on the same thread.
 *
 * @param attempt made into text only on failure.
 */
export function checked(result: number | bigint, attempt: () => string): number {
  if (result >= 0) return Number(result);
  // First of all: making the text may collect garbage, and that makes system calls of its own.
  const errno = koffi.errno();
  throw new SyscallError(attempt(), errno);
}

/** True when an error is a system call's (ours or Node's) with one of these errno names. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
