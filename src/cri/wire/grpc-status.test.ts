import assert from 'node:assert/strict';
import { test } from 'node:test';
import { status } from '@grpc/grpc-js';
import { BerthError, type ErrorCode, invalidArgument } from '../../lib/errors.ts';
import { errorCodeOf, failureFrom } from './grpc-status.ts';

test('failureFrom() returns the gRPC number of each code, and INTERNAL for other errors', () => {
  const names: readonly ErrorCode[] = [
    ...(['INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION'] as const),
    ...(['ABORTED', 'UNIMPLEMENTED', 'INTERNAL', 'UNAVAILABLE', 'UNAUTHENTICATED', 'CANCELLED'] as const),
  ];
  for (const name of names) assert.equal(failureFrom(new BerthError(name, 'text')).code, status[name], name);
  assert.equal(failureFrom(new TypeError('text')).code, status.INTERNAL);
});

test('failureFrom() returns UNKNOWN for pull errors that the kubelet recognizes by their prefix', () => {
  for (const word of ['RegistryUnavailable', 'SignatureValidationFailed']) {
    const { name, code, details } = failureFrom(new BerthError('UNAVAILABLE', `${word}: pulling image x`));
    assert.deepEqual([name, code, details], ['UNAVAILABLE', status.UNKNOWN, `${word}: pulling image x`]);
  }
  assert.equal(failureFrom(new BerthError('UNAVAILABLE', 'said RegistryUnavailable: no')).code, status.UNAVAILABLE);
});

test('failureFrom() limits the length of the message', () => {
  assert.equal(failureFrom(invalidArgument('x'.repeat(100_000))).details.length, 4097);
});

test('errorCodeOf() names the codes that failureFrom() sends, and takes others as INTERNAL', () => {
  for (const code of ['NOT_FOUND', 'FAILED_PRECONDITION', 'UNAUTHENTICATED'] as const)
    assert.equal(errorCodeOf(failureFrom(new BerthError(code, '')).code), code);
  assert.equal(errorCodeOf(status.DATA_LOSS), 'INTERNAL');
});
