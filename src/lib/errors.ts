/**
 * The error type for operational errors, and its constructors. Programmer errors are assertions instead. Pure.
 *
 * The code is chosen where the meaning of a failure is known. Only src/cri/interceptor.ts converts it to a gRPC status.
 */

/** Names of the gRPC codes that berth returns. */
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

/** An operational error. `message` is one line: what was attempted, on what, and the cause. */
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

/** Returns the code of any thrown value. */
export function codeOf(error: unknown): ErrorCode {
  return error instanceof BerthError ? error.code : 'INTERNAL';
}

/** A file system error of Node: `ENOENT: no such file or directory, open '/x'`. */
const nodeError = /^(E[A-Z0-9]+): (.+?), (\w+)(?: '(.*?)'(?: -> '(.*)')?)?$/s;

/**
 * Returns the message of any thrown value, for use as the cause at the end of another message. File system errors of Node get the form of all other
 * messages: `open /x: no such file or directory (ENOENT)`.
 */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const [, code, text, call, path, target] = nodeError.exec(error.message) ?? [];
  if (code === undefined) return error.message;
  return `${[call, path, target === undefined ? undefined : `to ${target}`].filter(Boolean).join(' ')}: ${text} (${code})`;
}

/** Returns true if a system call (ours or Node's) failed because a shared resource is temporarily exhausted: disk space, memory, open files. */
export function isExhaustion(error: unknown): boolean {
  const exhausted = ['ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE', 'ENFILE', 'EAGAIN'];
  return error instanceof Error && 'code' in error && exhausted.includes(String(error.code));
}

/**
 * Wraps an error as `attempt: reason`. The code is that of a BerthError, otherwise RESOURCE_EXHAUSTED if a resource is exhausted, otherwise INTERNAL.
 */
export function failedTo(attempt: string, error: unknown): BerthError {
  return failedAs('INTERNAL', attempt, error);
}

/** Like failedTo(), with FAILED_PRECONDITION instead of INTERNAL: for something that the caller named and that is missing or unusable on this node. */
export function unusable(attempt: string, error: unknown): BerthError {
  return failedAs('FAILED_PRECONDITION', attempt, error);
}

function failedAs(defaultCode: ErrorCode, attempt: string, error: unknown): BerthError {
  const code = error instanceof BerthError ? error.code : isExhaustion(error) ? 'RESOURCE_EXHAUSTED' : defaultCode;
  return new BerthError(code, `${attempt}: ${reasonOf(error)}`, error);
}
