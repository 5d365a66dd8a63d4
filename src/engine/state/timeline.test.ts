import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createStopwatch } from './timeline.ts';

function fixture() {
  let nowMs = 100;
  const observed: [string, number][] = [];
  const watch = createStopwatch({ observeStep: (step, seconds) => void observed.push([step, seconds]) }, () => nowMs);
  return { watch, observed, pass: (ms: number) => (nowMs += ms) };
}

test('createStopwatch() records steps in order, rounded to microseconds, and reports each in seconds', () => {
  const { watch, observed, pass } = fixture();
  assert.equal(
    watch.step('create.root', () => pass(1.23456) && 'root'),
    'root',
  );
  watch.step('create.plan', () => pass(20));
  assert.deepEqual(Object.entries(watch.timeline()), [
    ['create.root', 1.235],
    ['create.plan', 20],
  ]);
  assert.deepEqual(
    observed.map(([step]) => step),
    ['create.root', 'create.plan'],
  );
  assert.equal(observed[1]?.[1], 0.02);
});

test('createStopwatch() measures until a promise settles', async () => {
  const { watch, observed, pass } = fixture();
  const { promise, resolve } = Promise.withResolvers<string>();
  const step = watch.step('sandbox.network', () => promise);
  pass(50);
  assert.deepEqual([watch.timeline(), observed], [{}, []]);
  resolve('attached');
  assert.equal(await step, 'attached');
  assert.deepEqual(watch.timeline(), { 'sandbox.network': 50 });
});

test('createStopwatch() records a step that fails, and rethrows the error', async () => {
  const { watch, pass } = fixture();
  const fail = () => {
    pass(3);
    throw new Error('no');
  };
  assert.throws(() => watch.step('start.plan', fail), /no/);
  await assert.rejects(
    watch.step('start.monitor', async () => fail()),
    /no/,
  );
  assert.deepEqual(watch.timeline(), { 'start.plan': 3, 'start.monitor': 3 });
});
