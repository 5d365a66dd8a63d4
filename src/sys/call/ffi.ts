/**
 * Access to C libraries through koffi. Converts a result of -1 with an errno to an error that names the call.
 *
 * Only files of src/sys import this. Nothing here blocks or makes decisions.
 */
import { constants } from 'node:os';
import koffi from 'koffi';

/** Errno numbers by name, as Node knows them from the C library's headers. */
export const errnoByName: Readonly<Record<string, number>> = constants.errno;

const nameByErrno = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

/** Returns `ENOENT` for 2, and `errno 999` for an unknown number. */
function errnoName(errno: number): string {
  return nameByErrno.get(errno) ?? `errno ${errno}`;
}

/**
 * Loads a shared library by its soname. The library's own symbols take precedence (RTLD_DEEPBIND, dlopen(3)): Node exports its own versions of zstd and
 * OpenSSL, and libzstd would otherwise call those functions with structs of another layout.
 *
 * @throws {Error} if the library is not installed.
 */
export function library(soname: string): ReturnType<typeof koffi.load> {
  return koffi.load(soname, { deep: true });
}

/** glibc. Always present, because Node is linked against it. */
export const libc = library('libc.so.6');

const strerror = libc.func('const char *strerror(int errnum)');

/** Returns, for example, `no such file or directory (ENOENT)`: strerror(3) in lower case, and the name. */
export function errnoText(errno: number): string {
  const text = String(strerror(errno));
  return `${text.charAt(0).toLowerCase()}${text.slice(1)} (${errnoName(errno)})`;
}

/** A failed system call. `attempt` describes the call and its arguments: `open /etc/passwd`. */
export class SyscallError extends Error {
  readonly attempt: string;
  readonly errno: number;
  /** The name of the errno: `ENOENT`. */
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
 * Returns the result of a call, or throws the errno if it is negative.
 * Must be called right after the koffi call, on the same thread.
 *
 * @param attempt describes the call; only called on failure.
 */
export function checked(result: number | bigint, attempt: () => string): number {
  if (result >= 0) return Number(result);
  // Read errno first: building the text may start garbage collection, which makes system calls.
  const errno = koffi.errno();
  throw new SyscallError(attempt(), errno);
}

/** Returns true if a system call (ours or Node's) failed with one of these errno names. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
