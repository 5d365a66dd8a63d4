import assert from 'node:assert/strict';
import { test } from 'node:test';
import { untraced, whenOver } from './spans.ts';

test('untraced() does the work, and takes what it tells', () => {
  const done = untraced('work', (span) => {
    span.set({ a: 1 });
    span.fail(new Error('told'));
    span.addPart('part', 0, 1);
    return span.isRecorded;
  });
  assert.equal(done, false);
});

test('whenOver() calls back once, at the return, the throw, or when the promise is settled', async () => {
  const over: unknown[] = [];
  const tell = (failure?: { error: unknown }) => void over.push(failure?.error ?? 'done');
  const { promise, resolve } = Promise.withResolvers<string>();
  assert.equal(
    whenOver(() => 1, tell),
    1,
  );
  const throwing = () => {
    throw new Error('thrown');
  };
  assert.throws(() => whenOver(throwing, tell), /thrown/);
  const pending = whenOver(() => promise, tell);
  assert.equal(over.length, 2);
  resolve('later');
  assert.equal(await pending, 'later');
  const failure = new Error('rejected');
  await assert.rejects(
    whenOver(() => Promise.reject(failure), tell),
    /rejected/,
  );
  assert.deepEqual([over.length, over[0], over[2], over[3]], [4, 'done', 'done', failure]);
});
