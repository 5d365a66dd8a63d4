import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createKeyedQueue } from './queue.ts';

test('run() runs tasks of one key one at a time and in order, also after a failure', async () => {
  const queue = createKeyedQueue();
  const seen: string[] = [];
  const task =
    (name: string, fails = false) =>
    async () => {
      seen.push(`${name} begins`);
      await new Promise((resolve) => setImmediate(resolve));
      seen.push(`${name} ends`);
      if (fails) throw new Error(name);
    };
  const first = queue.run('k', task('a', true));
  const second = queue.run('k', task('b'));
  await assert.rejects(first, /a/);
  await second;
  assert.deepEqual(seen, ['a begins', 'a ends', 'b begins', 'b ends']);
  assert.equal(queue.size(), 0);
});

test('run() lets tasks of different keys overlap', async () => {
  const queue = createKeyedQueue();
  let release = () => {};
  const blocked = queue.run(
    'a',
    () =>
      new Promise<void>((resolve) => {
        release = resolve;
      }),
  );
  assert.equal(await queue.run('b', async () => 'done'), 'done');
  release();
  await blocked;
});

test('depth() counts running and waiting tasks, but not those that succeeded or failed', async () => {
  const queue = createKeyedQueue();
  const { promise, resolve } = Promise.withResolvers<void>();
  const tasks = [queue.run('a', () => promise), queue.run('a', () => Promise.reject(new Error('no'))), queue.run('b', () => promise)];
  assert.deepEqual([queue.depth(), queue.size()], [3, 2]);
  resolve();
  await Promise.allSettled(tasks);
  assert.deepEqual([queue.depth(), queue.size()], [0, 0]);
});
