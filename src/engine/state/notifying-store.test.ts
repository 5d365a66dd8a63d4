import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerView, sandboxView } from '../../../test/support/cri-fakes.ts';
import { createClock } from '../../lib/clock.ts';
import { createEvents, type LifeEvent } from './events.ts';
import { notifyingStore } from './notifying-store.ts';
import { containerState } from './records.ts';
import type { ObjectStore, Store } from './store.ts';

function memoryObjects<StoredRecord extends { readonly id: string }, Status>(): ObjectStore<StoredRecord, Status> {
  const views = new Map<string, { record: StoredRecord; status: Status }>();
  const update = (id: string, change: (status: Status) => Status) => {
    const view = views.get(id);
    if (view !== undefined) views.set(id, { record: view.record, status: change(view.status) });
  };
  return {
    directory: (id) => `/state/${id}`,
    create: (record, status) => void views.set(record.id, { record, status }),
    get: (id) => views.get(id),
    all: () => [...views.values()],
    update,
    updateBestEffort: (id, change) => {
      update(id, change);
      return null;
    },
    remove: async (id) => void views.delete(id),
  };
}

/** Creates a store with a listener, and a function that returns the events so far. */
function setUp(): { store: Store; published: () => Promise<LifeEvent[]> } {
  const events = createEvents();
  const store = notifyingStore({ sandboxes: memoryObjects(), containers: memoryObjects() }, events, createClock());
  const listener = events.listen(new AbortController().signal);
  const published = async () => {
    events.close();
    const all: LifeEvent[] = [];
    for await (const event of listener) all.push(event);
    return all;
  };
  return { store, published };
}

const sandbox = sandboxView('s1').record;
const container = containerView('c1').record;

function runAll(store: Store): void {
  store.sandboxes.create(sandbox, {});
  store.sandboxes.update('s1', () => ({ readyAtNs: '1' }));
  store.containers.create(container, { resources: {} });
  store.containers.update('c1', (status) => ({ ...status, readyAtNs: '2' }));
  store.containers.update('c1', (status) => ({ ...status, startingAtNs: '3' }));
  store.containers.update('c1', (status) => ({ ...status, startedAtNs: '4' }));
}

test('each step of a lifecycle is published once, by the change that makes it visible', async () => {
  const { store, published } = setUp();
  runAll(store);
  store.containers.updateBestEffort('c1', (status) => ({ ...status, finishedAtNs: '5', exitCode: 0 }));
  store.containers.update('c1', (status) => ({ ...status, message: 'no change of state' }));
  store.sandboxes.updateBestEffort('s1', (status) => ({ ...status, stoppedAtNs: '6' }));
  await store.containers.remove('c1');
  await store.sandboxes.remove('s1');
  await store.sandboxes.remove('s1');
  assert.deepEqual(
    (await published()).map(({ id, kind }) => `${id} ${kind}`),
    ['s1 created', 's1 started', 'c1 created', 'c1 started', 'c1 stopped', 's1 stopped', 'c1 deleted', 's1 deleted'],
  );
});

test('an event contains the pod right after the change: EXITED if stopped, absent if deleted', async () => {
  const { store, published } = setUp();
  runAll(store);
  store.containers.update('c1', (status) => ({ ...status, finishedAtNs: '5', exitCode: 3 }));
  await store.containers.remove('c1');
  const events = await published();
  const statesAt = (kind: string) =>
    events.find((each) => each.id === 'c1' && each.kind === kind)?.containers.map(({ status }) => containerState(status));
  assert.deepEqual(['created', 'started', 'stopped', 'deleted'].map(statesAt), [['created'], ['running'], ['exited'], []]);
});

test('the deletion of a sandbox contains its record', async () => {
  const { store, published } = setUp();
  runAll(store);
  await store.sandboxes.remove('s1');
  assert.equal((await published()).at(-1)?.sandbox?.record, sandbox);
});

test('times of events increase strictly', async () => {
  const { store, published } = setUp();
  runAll(store);
  const times = (await published()).map(({ atNs }) => BigInt(atNs));
  assert.ok(times.length > 3);
  assert.ok(times.every((time, index) => index === 0 || time > (times[index - 1] ?? 0n)));
});

test('objects that never became visible cause no events', async () => {
  const { store, published } = setUp();
  store.sandboxes.create(sandbox, {});
  store.sandboxes.update('s1', (status) => ({ ...status, stoppedAtNs: '2' }));
  store.containers.create(container, { resources: {} });
  await store.containers.remove('c1');
  await store.sandboxes.remove('s1');
  assert.deepEqual(await published(), []);
});

test('a container whose start failed is stopped, but not started', async () => {
  const { store, published } = setUp();
  store.containers.create(container, { resources: {}, readyAtNs: '1' });
  store.containers.update('c1', (status) => ({ ...status, startedAtNs: '2', finishedAtNs: '2', reason: 'StartError' }));
  assert.deepEqual(
    (await published()).map(({ kind }) => kind),
    ['stopped'],
  );
});

test('an event does not contain containers of other pods', async () => {
  const { store, published } = setUp();
  runAll(store);
  store.containers.create({ ...container, id: 'c2', sandboxId: 'other' }, { resources: {}, readyAtNs: '9' });
  store.containers.update('c1', (status) => ({ ...status, finishedAtNs: '5' }));
  assert.deepEqual(
    (await published()).at(-1)?.containers.map(({ record }) => record.id),
    ['c1'],
  );
});
