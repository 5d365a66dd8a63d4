/**
 * Locks directories until the process ends. Writes no file, so there are no stale locks.
 */
import { openSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { checked, isErrno, libc } from '../call/ffi.ts';

const c_flock = libc.func('int flock(int fd, int operation)');
const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * Locks a directory for this process until it ends: flock(2) on an fd that child processes do not inherit.
 *
 * @throws {BerthError} FAILED_PRECONDITION if another process holds the lock.
 */
export function lockDirectory(path: string, advice: string): void {
  const fd = openSync(path, 'r');
  try {
    checked(c_flock(fd, LOCK_EX | LOCK_NB), () => `lock ${path}`);
  } catch (error) {
    if (!isErrno(error, 'EWOULDBLOCK', 'EAGAIN')) throw error;
    throw failedPrecondition(`another daemon uses ${path}: ${advice}`, error);
  }
}
