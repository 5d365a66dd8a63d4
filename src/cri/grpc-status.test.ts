import assert from 'node:assert/strict';
import { test } from 'node:test';
import { status } from '@grpc/grpc-js';
import { invalidArgument } from '../lib/errors.ts';
import { failureFrom, grpcCodes } from './grpc-status.ts';

test('every code has the number that grpc gives its name', () => {
  for (const [name, code] of Object.entries(grpcCodes)) assert.equal(code, status[name as keyof typeof status], name);
});

test('failureFrom() bounds the text: it travels in a header', () => {
  assert.equal(failureFrom(invalidArgument('x'.repeat(100_000))).details.length, 4097);
});
