import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createGate } from './gate.ts';

test('createGate() runs shared tasks concurrently and an exclusive one alone, in the order of the calls', async () => {
  const gate = createGate();
  const events: string[] = [];
  const open = { a: () => {}, b: () => {}, x: () => {} };
  const task = (name: keyof typeof open) => () =>
    new Promise<void>((resolve) => {
      events.push(`${name} starts`);
      open[name] = () => {
        events.push(`${name} ends`);
        resolve();
      };
    });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const all = [gate.share(task('a')), gate.share(task('b')), gate.exclude(task('x')), gate.share(async () => events.push('late'))];
  await turn();
  open.b();
  await turn();
  open.a();
  await turn();
  open.x();
  await Promise.all(all);
  assert.deepEqual(events, ['a starts', 'b starts', 'b ends', 'a ends', 'x starts', 'x ends', 'late']);
});

test('createGate() runs later tasks after a failure', async () => {
  const gate = createGate();
  const fail = () => Promise.reject(new Error('no'));
  await assert.rejects(gate.share(fail));
  await assert.rejects(gate.exclude(fail));
  assert.equal(await gate.share(async () => 1), 1);
});
