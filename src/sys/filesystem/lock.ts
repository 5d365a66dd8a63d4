/**
 * Locks on directories, held by the process until it ends, however it ends. Nothing is written: no stale lock is ever left.
 */
import { openSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { checked, isErrno, libc } from '../call/ffi.ts';

const c_flock = libc.func('int flock(int fd, int operation)');
const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Takes a directory for this process alone, for its life: flock(2) on the directory, an fd that no program it starts inherits.
 *
 * @throws {BerthError} FAILED_PRECONDITION when another process has it.
 */
export function lockDirectory(path: string, advice: string): void {
  const fd = openSync(path, 'r');
  try {
    checked(c_flock(fd, LOCK_EX | LOCK_NB), () => `locking ${path}`);
  } catch (error) {
    if (!isErrno(error, 'EWOULDBLOCK', 'EAGAIN')) throw error;
    throw failedPrecondition(`another daemon works in ${path}: ${advice}`, error);
  }
}
