/**
 * Classifies failures of a registry host, decides about retries, and builds the final error.
 *
 * Pure. A HostFailure stays inside the registry client: its callers get a BerthError that names all hosts that were tried.
 */
import { BerthError, reasonOf } from '../../lib/errors.ts';
import { goFields, type JsonObject } from '../../lib/go-json.ts';
import { oneLine } from '../document/untrusted-json.ts';

/**
 * `unreachable`: no connection, or a broken one. `busy`: the host asks to retry later, or has an internal error. `unauthorized`: access denied
 * with these credentials. `missing`: not found. `wrong`: the response cannot be used.
 */
export type FailureKind = 'unreachable' | 'busy' | 'unauthorized' | 'missing' | 'wrong';

export type FailureDetails = {
  readonly retryAfterMs?: number | undefined;
  readonly isLasting?: boolean;
  readonly status?: number | undefined;
  readonly cause?: unknown;
};

export class HostFailure extends Error {
  readonly kind: FailureKind;
  /** From the host's Retry-After header. */
  readonly retryAfterMs: number | undefined;
  /** A retry would fail too: an unknown host name, an untrusted certificate. */
  readonly isLasting: boolean;
  /** Of the response; undefined when there was none. */
  readonly status: number | undefined;

  constructor(kind: FailureKind, reason: string, details: FailureDetails = {}) {
    super(reason, { cause: details.cause });
    this.name = 'HostFailure';
    this.kind = kind;
    this.retryAfterMs = details.retryAfterMs;
    this.status = details.status;
    this.isLasting = details.isLasting ?? (kind !== 'unreachable' && kind !== 'busy');
  }
}

/** The final failure of one host. */
export type Attempt = { readonly host: string; readonly isMirror: boolean; readonly hasCredentials?: boolean; readonly failure: HostFailure };

/** For a longer Retry-After the pull fails at once: the kubelet retries it. */
const retryAfterMsMax = 60_000;
const transientStatuses: readonly number[] = [408, 425, 429];
/** Errors of a server that a retry does not change. */
const lastingServerErrors: readonly number[] = [501, 505];
/** Unknown host names and all TLS failures. Source: Node's errors, "OpenSSL error codes" and tls. */
const lastingCodes = /^(?:ENOTFOUND|ERR_TLS|ERR_SSL|ERR_OSSL|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|EPROTO|HOSTNAME_MISMATCH|INVALID_CA)/;
/** The response is not HTTP. */
const protocolCodes = /^(?:HPE_|ERR_INVALID|ERR_HTTP)/;

/** Returns the failure for an error response. @param explanation the sanitized text of its body. */
export function failureOfStatus(status: number, retryAfter: string | undefined, explanation: string, nowMs: number): HostFailure {
  const reason = `status ${status}${explanation === '' ? '' : ` (${explanation})`}`;
  if (status === 404) return new HostFailure('missing', reason, { status });
  if (status === 401 || status === 403) return new HostFailure('unauthorized', reason, { status });
  const isTransient = transientStatuses.includes(status) || (status >= 500 && status < 600 && !lastingServerErrors.includes(status));
  if (!isTransient) return new HostFailure('wrong', reason, { status });
  return new HostFailure('busy', reason, { status, retryAfterMs: parseRetryAfter(retryAfter, nowMs) });
}

/** Returns the failure for a connection error. */
export function failureOfError(error: unknown): HostFailure {
  if (error instanceof HostFailure) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  // Node's message for an incomplete body.
  const reason =
    reasonOf(error) === 'aborted' ? 'connection closed before the end of the response' : oneLine(reasonOf(error)) || code || 'connection failed';
  return new HostFailure(protocolCodes.test(code) ? 'wrong' : 'unreachable', reason, {
    isLasting: lastingCodes.test(code) || protocolCodes.test(code),
    cause: error,
  });
}

/**
 * Returns the wait before a retry at the same host; undefined for no retry. Doubles with each attempt. A random part of up to half is subtracted,
 * so that many nodes do not retry at the same time.
 *
 * @param attempt 0 after the first failure.
 * @param random between 0 and 1.
 */
export function retryDelayMs(
  failure: HostFailure,
  attempt: number,
  timing: { readonly backoffMs: number; readonly backoffMsMax: number },
  random: number,
): number | undefined {
  if (failure.isLasting) return undefined;
  const retryAfterMs = failure.retryAfterMs ?? 0;
  if (retryAfterMs > retryAfterMsMax) return undefined;
  const backoffMs = Math.min(timing.backoffMs * 2 ** attempt, timing.backoffMsMax) * (1 - random / 2);
  return Math.max(retryAfterMs, backoffMs);
}

/** Parses seconds or a date. Source: RFC 9110 section 10.2.3. */
function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined || header === '') return undefined;
  if (/^[0-9]+$/.test(header)) return Number(header) * 1000;
  // Date.parse() accepts almost any text with a number in it.
  const date = /^[A-Z][a-z]+,? /.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs);
}

/**
 * Returns one error for all hosts that were tried. The failure of the registry itself has precedence over those of its mirrors.
 *
 * @param subject such as `image docker.io/library/busybox:1.36`.
 * @param notAsked hosts without the capability.
 */
export function errorOfAttempts(
  subject: string,
  attempts: readonly Attempt[],
  { capability, notAsked }: { readonly capability: 'pull' | 'resolve'; readonly notAsked: readonly string[] },
): BerthError {
  const deciding = attempts.findLast((attempt) => !attempt.isMirror) ?? attempts.at(-1);
  const withoutCapability = notAsked.length === 0 ? '' : `; not asked: ${notAsked.join(', ')} (no capability ${capability} in hosts.toml)`;
  if (deciding === undefined)
    return new BerthError('FAILED_PRECONDITION', `pull ${subject}: no host in hosts.toml has the capability ${capability}${withoutCapability}`);
  const others = attempts.filter((attempt) => attempt !== deciding).map((attempt) => `${attempt.host}: ${attempt.failure.message}`);
  const tail = `${others.length === 0 ? '' : `; also tried ${others.join('; ')}`}${withoutCapability}`;
  const { host, failure } = deciding;
  const cause = failure.cause ?? failure;
  if (failure.kind === 'missing') return new BerthError('NOT_FOUND', `${subject} not found on ${host}: ${failure.message}${tail}`, cause);
  if (failure.kind === 'unauthorized') {
    const means = deciding.hasCredentials === false ? 'without credentials' : 'with these credentials';
    return new BerthError('UNAUTHENTICATED', `${host} denied access to ${subject} ${means}: ${failure.message}${tail}`, cause);
  }
  if (failure.kind === 'wrong') return new BerthError('FAILED_PRECONDITION', `pull ${subject} from ${host}: ${failure.message}${tail}`, cause);
  const wait = failure.retryAfterMs === undefined ? '' : ` (retry after ${Math.ceil(failure.retryAfterMs / 1000)} s)`;
  return new BerthError('UNAVAILABLE', `RegistryUnavailable: pull ${subject} from ${host}: ${failure.message}${wait}${tail}`, cause);
}

/**
 * Returns the message in an error body: of the distribution protocol (`errors[0].code`, `.message` and `.detail`), of a token service, or plain
 * text; '' when there is none, or when it contains a secret of the request.
 */
export function explanationOf(body: Buffer, secrets: readonly string[]): string {
  const text = explanationText(body);
  return secrets.some((secret) => text.includes(secret)) ? '' : oneLine(text);
}

function explanationText(body: Buffer): string {
  const text = body.toString('utf8');
  let answer: unknown;
  try {
    answer = JSON.parse(text);
  } catch {
    // A page of a proxy says nothing that its status does not.
    return /[<{\0]/.test(text) ? '' : text;
  }
  const fields = goFields(Object(answer) as JsonObject, ['errors', 'code', 'message', 'details', 'error', 'error_description']);
  const first = goFields(Object(Array.isArray(fields.errors) ? fields.errors[0] : {}) as JsonObject, ['code', 'message', 'detail']);
  const parts = [first.code, first.message, first.detail, fields.code, fields.message, fields.details, fields.error, fields.error_description];
  return parts.filter((part) => typeof part === 'string' && part !== '').join(': ');
}
