/**
 * The one error type of operating errors, and its constructors. Programmer errors are assertions instead.
 *
 * The code is chosen where the meaning of a failure is known; src/cri/interceptor.ts alone turns it into a gRPC status.
 */

/** The names of the gRPC codes that berth answers with. */
export type ErrorCode =
  | 'INVALID_ARGUMENT'
  | 'DEADLINE_EXCEEDED'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'ABORTED'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'UNAUTHENTICATED'
  | 'CANCELLED';

/** An operating error: `message` is one line that says what was tried, on what, and why it failed. */
export class BerthError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'BerthError';
    this.code = code;
  }
}

export const invalidArgument = (message: string, cause?: unknown): BerthError => new BerthError('INVALID_ARGUMENT', message, cause);
export const notFound = (message: string, cause?: unknown): BerthError => new BerthError('NOT_FOUND', message, cause);
export const failedPrecondition = (message: string, cause?: unknown): BerthError => new BerthError('FAILED_PRECONDITION', message, cause);
export const unimplemented = (message: string): BerthError => new BerthError('UNIMPLEMENTED', message);
export const internal = (message: string, cause?: unknown): BerthError => new BerthError('INTERNAL', message, cause);

/** The code of anything thrown. */
export function codeOf(error: unknown): ErrorCode {
  return error instanceof BerthError ? error.code : 'INTERNAL';
}

/** The text of anything thrown, for the end of a message. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** True for a system call's failure (ours or Node's) for want of something that comes back when others let go of it: space, memory, open files. */
export function isExhaustion(error: unknown): boolean {
  const exhausted = ['ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE', 'ENFILE', 'EAGAIN'];
  return error instanceof Error && 'code' in error && exhausted.includes(String(error.code));
}

/**
 * The same failure with what was being attempted in front: `attempt: reason`. Keeps the code of a BerthError; else RESOURCE_EXHAUSTED when
 * something is full, else INTERNAL.
 */
export function failedTo(attempt: string, error: unknown): BerthError {
  return failedAs('INTERNAL', attempt, error);
}

/** As failedTo(), for what the caller named and this node has not, or not so: FAILED_PRECONDITION instead of INTERNAL. */
export function unusable(attempt: string, error: unknown): BerthError {
  return failedAs('FAILED_PRECONDITION', attempt, error);
}

function failedAs(otherwise: ErrorCode, attempt: string, error: unknown): BerthError {
  const code = error instanceof BerthError ? error.code : isExhaustion(error) ? 'RESOURCE_EXHAUSTED' : otherwise;
  return new BerthError(code, `${attempt}: ${reasonOf(error)}`, error);
}
