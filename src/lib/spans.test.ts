import assert from 'node:assert/strict';
import { test } from 'node:test';
import { untraced, whenOver } from './spans.ts';

test('untraced() runs the work, and ignores what it reports to the span', () => {
  const done = untraced('work', (span) => {
    span.set({ a: 1 });
    span.fail(new Error('ignored'));
    span.addPart('part', 0, 1);
    return span.isRecorded;
  });
  assert.equal(done, false);
});

test('whenOver() calls back once: on return, on throw, or when the promise settles', async () => {
  const ends: unknown[] = [];
  const onEnd = (failure?: { error: unknown }) => void ends.push(failure?.error ?? 'done');
  const { promise, resolve } = Promise.withResolvers<string>();
  assert.equal(
    whenOver(() => 1, onEnd),
    1,
  );
  const throwing = () => {
    throw new Error('thrown');
  };
  assert.throws(() => whenOver(throwing, onEnd), /thrown/);
  const pending = whenOver(() => promise, onEnd);
  assert.equal(ends.length, 2);
  resolve('later');
  assert.equal(await pending, 'later');
  const failure = new Error('rejected');
  await assert.rejects(
    whenOver(() => Promise.reject(failure), onEnd),
    /rejected/,
  );
  assert.deepEqual([ends.length, ends[0], ends[2], ends[3]], [4, 'done', 'done', failure]);
});
