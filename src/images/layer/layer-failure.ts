/**
 * Errors of a layer's entries, with the names of errnos.
 */
import { BerthError, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { shownPath } from './layer-path.ts';

/** Runs an action and prefixes its error with the entry's path. */
export function named(path: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw new BerthError(codeOf(error), `entry ${shownPath(path)}: ${reasonOf(error)}`, error);
  }
}

function codeOf(error: unknown): BerthError['code'] {
  if (error instanceof BerthError) return error.code;
  if (isErrno(error, 'ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE', 'EMLINK')) return 'RESOURCE_EXHAUSTED';
  return isErrno(error, 'ENAMETOOLONG', 'ENOENT', 'EINVAL', 'ERANGE', 'E2BIG', 'EFBIG') ? 'INVALID_ARGUMENT' : 'INTERNAL';
}

/** Returns the error for a layer that exceeds a limit. @param reason continues the sentence after `layer`. */
export function exhausted(reason: string): BerthError {
  return new BerthError('RESOURCE_EXHAUSTED', `layer ${reason}`);
}
