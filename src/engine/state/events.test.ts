import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { createEvents, type LifeEvent } from './events.ts';

const event = (id: string): LifeEvent => ({ kind: 'created', id, atNs: '1', sandbox: undefined, containers: [] });
const never = new AbortController().signal;

async function take(events: AsyncIterable<LifeEvent>, count: number): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of events) {
    ids.push(id);
    if (ids.length === count) break;
  }
  return ids;
}

const isBerthError = (code: string) => (error: unknown) => error instanceof BerthError && error.code === code;

test('listen() returns every event since the call, in order, to each listener', async () => {
  const events = createEvents();
  events.emit(event('before'));
  const first = events.listen(never);
  events.emit(event('a'));
  const second = events.listen(never);
  events.emit(event('b'));
  assert.deepEqual(await take(first, 2), ['a', 'b']);
  assert.deepEqual(await take(second, 1), ['b']);
});

test('emit() wakes a waiting listener', async () => {
  const events = createEvents();
  const waiting = take(events.listen(never), 1);
  await new Promise((resolve) => setImmediate(resolve));
  events.emit(event('late'));
  assert.deepEqual(await waiting, ['late']);
});

test('listen() ends without an error when the signal is aborted, and removes the listener', async () => {
  const events = createEvents();
  const controller = new AbortController();
  const waiting = take(events.listen(controller.signal), 1);
  await new Promise((resolve) => setImmediate(resolve));
  controller.abort();
  assert.deepEqual(await waiting, []);
  assert.equal(events.hasListeners(), false);
});

test('a listener that stops its iteration is removed', async () => {
  const events = createEvents();
  const listener = events.listen(never);
  events.emit(event('a'));
  await take(listener, 1);
  assert.equal(events.hasListeners(), false);
});

test('a listener that falls behind fails with RESOURCE_EXHAUSTED; others get all events', async () => {
  const events = createEvents();
  const slow = events.listen(never);
  const quick = take(events.listen(never), 5000);
  for (let n = 0; n < 5000; n += 1) {
    events.emit(event(String(n)));
    if (n % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal((await quick).length, 5000);
  await assert.rejects(take(slow, 1), isBerthError('RESOURCE_EXHAUSTED'));
  assert.equal(events.hasListeners(), false);
});

test('listen() rejects the 65th listener', () => {
  const events = createEvents();
  for (let n = 0; n < 64; n += 1) events.listen(never);
  assert.throws(() => events.listen(never), isBerthError('RESOURCE_EXHAUSTED'));
});

test('close() ends listeners after their pending events, and new listeners at once', async () => {
  const events = createEvents();
  const listener = events.listen(never);
  events.emit(event('last'));
  events.close();
  assert.deepEqual(await take(listener, 9), ['last']);
  assert.deepEqual(await take(events.listen(never), 9), []);
});
