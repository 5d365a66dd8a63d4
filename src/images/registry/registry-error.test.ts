import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { errorOfAttempts, explanationOf, failureOfError, failureOfStatus, HostFailure, retryDelayMs } from './registry-error.ts';

const none = { capability: 'pull', notAsked: [] } as const;
const timing = { backoffMs: 100, backoffMsMax: 1000 };
const errorWith = (code: string, message = 'm') => Object.assign(new Error(message), { code });

test('failureOfStatus() distinguishes missing, unauthorized, busy and wrong', () => {
  const kinds = [404, 401, 403, 429, 500, 503, 408, 400, 301, 418].map((status) => failureOfStatus(status, undefined, '', 0).kind);
  assert.deepEqual(kinds, ['missing', 'unauthorized', 'unauthorized', 'busy', 'busy', 'busy', 'busy', 'wrong', 'wrong', 'wrong']);
  assert.equal(failureOfStatus(429, '7', 'slow', 0).message, 'status 429 (slow)');
});

test('failureOfError() treats an unknown host and an untrusted certificate as lasting, a broken connection as transient', () => {
  const facts = ['ECONNRESET', 'ENOTFOUND', 'DEPTH_ZERO_SELF_SIGNED_CERT', 'HPE_INVALID_CONSTANT'].map((code) => {
    const { kind, isLasting } = failureOfError(errorWith(code));
    return [kind, isLasting];
  });
  assert.deepEqual(facts, [
    ['unreachable', false],
    ['unreachable', true],
    ['unreachable', true],
    ['wrong', true],
  ]);
  assert.equal(
    failureOfError(errorWith('ECONNREFUSED', '')).message,
    'ECONNREFUSED',
    'refusals of several addresses give an error without a message',
  );
  assert.equal(failureOfError('text').message, 'text');
});

test('failureOfStatus() reads Retry-After in seconds and dates', () => {
  const now = Date.parse('Wed, 21 Oct 2026 07:28:00 GMT');
  const read = (header: string | undefined) => failureOfStatus(429, header, '', now).retryAfterMs;
  assert.deepEqual([read(undefined), read(''), read('soon'), read('-5')], [undefined, undefined, undefined, undefined]);
  assert.deepEqual([read('0'), read('120')], [0, 120_000]);
  assert.equal(read('Wed, 21 Oct 2026 07:28:30 GMT'), 30_000);
  assert.equal(read('Wed, 21 Oct 2026 07:27:00 GMT'), 0);
});

describe('retryDelayMs()', () => {
  const transient = new HostFailure('unreachable', 'r');
  test('doubles up to its limit, minus up to half', () => {
    assert.deepEqual(
      [0, 1, 2, 3, 4, 50].map((attempt) => retryDelayMs(transient, attempt, timing, 0)),
      [100, 200, 400, 800, 1000, 1000],
    );
    assert.equal(retryDelayMs(transient, 1, timing, 1), 100);
  });
  test('respects Retry-After up to a minute, and does not retry if it is longer', () => {
    const delayFor = (retryAfterMs: number) => retryDelayMs(new HostFailure('busy', 'r', { retryAfterMs }), 0, timing, 0);
    assert.deepEqual([delayFor(0), delayFor(5000), delayFor(60_000), delayFor(60_001)], [100, 5000, 60_000, undefined]);
  });
  test('does not retry lasting failures', () => {
    for (const kind of ['missing', 'unauthorized', 'wrong'] as const) assert.equal(retryDelayMs(new HostFailure(kind, 'r'), 0, timing, 0), undefined);
  });
});

describe('errorOfAttempts()', () => {
  const attempt = (host: string, isMirror: boolean, kind: HostFailure['kind'], retryAfterMs?: number) => ({
    host,
    isMirror,
    failure: new HostFailure(kind, `reason of ${host}`, { retryAfterMs }),
  });
  const cases: readonly (readonly [HostFailure['kind'], string, string])[] = [
    ['missing', 'NOT_FOUND', 'image i not found on r: reason of r'],
    ['unauthorized', 'UNAUTHENTICATED', 'r denied access to image i with these credentials: reason of r'],
    ['unreachable', 'UNAVAILABLE', 'RegistryUnavailable: pull image i from r: reason of r'],
    ['wrong', 'FAILED_PRECONDITION', 'pull image i from r: reason of r'],
  ];
  for (const [kind, code, message] of cases) {
    test(`returns ${code} if the registry is ${kind}, regardless of its mirrors`, () => {
      const error = errorOfAttempts('image i', [attempt('m', true, 'unreachable'), attempt('r', false, kind)], none);
      assert.deepEqual([error.code, error.message], [code, `${message}; also tried m: reason of m`]);
    });
  }
  test('includes the Retry-After time of a busy host', () => {
    assert.match(errorOfAttempts('i', [attempt('r', false, 'busy', 90_500)], none).message, /\(retry after 91 s\)/);
  });
  test('returns FAILED_PRECONDITION if no host was tried', () => assert.equal(errorOfAttempts('i', [], none).code, 'FAILED_PRECONDITION'));
  test('names the hosts that were not asked, and says whether credentials were used', () => {
    const anonymous = { ...attempt('r', false, 'unauthorized'), hasCredentials: false };
    const { message } = errorOfAttempts('i', [anonymous], { capability: 'resolve', notAsked: ['http://m'] });
    assert.equal(message, 'r denied access to i without credentials: reason of r; not asked: http://m (no capability resolve in hosts.toml)');
  });
});

test('explanationOf() returns the message of the registry on one line, unless it contains a secret', () => {
  const explain = (body: unknown) => explanationOf(Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)), ['secret']);
  assert.equal(explain({ errors: [{ code: 'DENIED', message: 'not\nyours' }] }), 'DENIED: not yours');
  assert.equal(explain({ details: 'incorrect password' }), 'incorrect password');
  assert.equal(explain({ Errors: [{ Code: 'DENIED', detail: 'by policy' }] }), 'DENIED: by policy');
  assert.equal(explain({ error: 'invalid_grant', error_description: 'expired' }), 'invalid_grant: expired');
  assert.equal(explain('quota exceeded\n'), 'quota exceeded');
  assert.equal(explain('your secret is wrong'), '');
  assert.equal(explain({ errors: [{ code: 'DENIED', message: 'you sent secret' }] }), '');
  for (const body of ['<html>', '', '[]', 'null', '1', { errors: 1 }, { errors: [] }, { errors: [null] }, { errors: [{ code: 7 }] }])
    assert.equal(explain(body), '');
  assert.ok(explain({ errors: [{ message: 'x'.repeat(10_000) }] }).length < 300);
  assert.equal(explain({ errors: [{ message: 'a\u001b[31m\u202eb' }] }), 'a\\u{1b}[31m\\u{202e}b');
});
