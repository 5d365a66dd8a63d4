/**
 * What can go wrong with one registry host, whether to try again and when, and what the caller is told at the end.
 *
 * Pure. A HostFailure stays inside the registry client: its callers see a BerthError that names every host that was asked.
 */
import { BerthError, reasonOf } from '../../lib/errors.ts';
import { oneLine } from '../document/untrusted-json.ts';

/**
 * `unreachable`: no connection, or it broke. `busy`: the host asks for time, or fails by itself. `unauthorized`: not with these
 * credentials. `missing`: it has no such thing. `wrong`: its answer cannot be used.
 */
export type FailureKind = 'unreachable' | 'busy' | 'unauthorized' | 'missing' | 'wrong';

export class HostFailure extends Error {
  readonly kind: FailureKind;
  /** As the host asked by Retry-After. */
  readonly retryAfterMs: number | undefined;
  /** The same a second later: a name that does not exist, a certificate that is not trusted. */
  readonly isLasting: boolean;

  constructor(kind: FailureKind, reason: string, details: { retryAfterMs?: number | undefined; isLasting?: boolean; cause?: unknown } = {}) {
    super(reason, { cause: details.cause });
    this.name = 'HostFailure';
    this.kind = kind;
    this.retryAfterMs = details.retryAfterMs;
    this.isLasting = details.isLasting ?? (kind !== 'unreachable' && kind !== 'busy');
  }
}

/** One host's last word. */
export type Attempt = { readonly host: string; readonly isMirror: boolean; readonly failure: HostFailure };

/** Longer waits are not sat out inside one pull: the kubelet comes back by itself. */
const retryAfterMsMax = 60_000;
const transientStatuses: readonly number[] = [408, 425, 429, 500, 502, 503, 504];
/** Names that do not exist, and every way in which TLS refuses. Source: Node's errors, "OpenSSL error codes" and tls. */
const lastingCodes = /^(?:ENOTFOUND|ERR_TLS|ERR_SSL|ERR_OSSL|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|EPROTO|HOSTNAME_MISMATCH|INVALID_CA)/;
/** What arrives is not HTTP. */
const protocolCodes = /^(?:HPE_|ERR_INVALID|ERR_HTTP)/;

/** The failure that a response stands for. `explanation` is what its body said, already fit to be shown. */
export function failureOfStatus(status: number, retryAfter: string | undefined, explanation: string, nowMs: number): HostFailure {
  const reason = `status ${status}${explanation === '' ? '' : ` (${explanation})`}`;
  if (status === 404) return new HostFailure('missing', reason);
  if (status === 401 || status === 403) return new HostFailure('unauthorized', reason);
  if (!transientStatuses.includes(status)) return new HostFailure('wrong', reason);
  return new HostFailure('busy', reason, { retryAfterMs: parseRetryAfter(retryAfter, nowMs) });
}

/** The failure that an error of a connection stands for. */
export function failureOfError(error: unknown): HostFailure {
  if (error instanceof HostFailure) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  // Node's word for a body that breaks off.
  const reason = reasonOf(error) === 'aborted' ? 'the connection broke' : oneLine(reasonOf(error)) || code || 'connection failed';
  return new HostFailure(protocolCodes.test(code) ? 'wrong' : 'unreachable', reason, {
    isLasting: lastingCodes.test(code) || protocolCodes.test(code),
    cause: error,
  });
}

/**
 * How long to wait before asking the same host again; undefined: do not. Doubles with each attempt, up to half of it taken away at random,
 * so that many nodes do not come back at the same instant.
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
  const asked = failure.retryAfterMs ?? 0;
  if (asked > retryAfterMsMax) return undefined;
  const own = Math.min(timing.backoffMs * 2 ** attempt, timing.backoffMsMax) * (1 - random / 2);
  return Math.max(asked, own);
}

/** Seconds or a date. Source: RFC 9110 section 10.2.3. */
function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined || header === '') return undefined;
  if (/^[0-9]+$/.test(header)) return Number(header) * 1000;
  // Date.parse() makes a date of almost anything that has a number in it.
  const date = /^[A-Z][a-z]+,? /.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - nowMs);
}

/**
 * The one error for all hosts that were asked. The registry's own answer decides over those of its mirrors.
 *
 * @param subject e.g. `image docker.io/library/busybox:1.36`.
 */
export function errorOfAttempts(subject: string, attempts: readonly Attempt[]): BerthError {
  const deciding = attempts.findLast((attempt) => !attempt.isMirror) ?? attempts.at(-1);
  if (deciding === undefined) return new BerthError('FAILED_PRECONDITION', `${subject}: no configured host may be asked for it`);
  const others = attempts.filter((attempt) => attempt !== deciding).map((attempt) => `${attempt.host}: ${attempt.failure.message}`);
  const tail = others.length === 0 ? '' : `; also asked ${others.join('; ')}`;
  const { host, failure } = deciding;
  const cause = failure.cause ?? failure;
  if (failure.kind === 'missing') return new BerthError('NOT_FOUND', `${subject} not found on ${host}: ${failure.message}${tail}`, cause);
  if (failure.kind === 'unauthorized') {
    return new BerthError('UNAUTHENTICATED', `${host} does not give out ${subject} with these credentials: ${failure.message}${tail}`, cause);
  }
  if (failure.kind === 'wrong') return new BerthError('FAILED_PRECONDITION', `pulling ${subject} from ${host}: ${failure.message}${tail}`, cause);
  const wait = failure.retryAfterMs === undefined ? '' : `, which asks to come back in ${Math.ceil(failure.retryAfterMs / 1000)} s`;
  return new BerthError('UNAVAILABLE', `RegistryUnavailable: pulling ${subject} from ${host}${wait}: ${failure.message}${tail}`, cause);
}

/**
 * What an error body says, as the distribution protocol has it (`errors[0].code` and `.message`); '' when it says nothing usable.
 * A text that repeats a secret of the request is not shown.
 */
export function explanationOf(body: Buffer, secrets: readonly string[]): string {
  const text = explanationText(body);
  return secrets.some((secret) => text.includes(secret)) ? '' : oneLine(text);
}

function explanationText(body: Buffer): string {
  try {
    const answer: unknown = JSON.parse(body.toString('utf8'));
    const { errors, details, error } = Object(answer) as Record<string, unknown>;
    const first = Object(Array.isArray(errors) ? errors[0] : {}) as Record<string, unknown>;
    return [first.code, first.message, details, error].filter((part) => typeof part === 'string' && part !== '').join(': ');
  } catch {
    return '';
  }
}
