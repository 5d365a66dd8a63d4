import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerSpec, containerView, sandboxSpec, sandboxView } from '../../../test/support/cri-fakes.ts';
import type { ContainerFilter, PodSandboxFilter } from '../wire/messages.ts';
import { selectContainers, selectSandboxes } from './filters.ts';

const sandboxes = [
  sandboxView('aa1'),
  sandboxView('aa2', {}, { stoppedAtNs: '9' }),
  sandboxView('bb1', { spec: { ...sandboxSpec, labels: { app: 'db', tier: '' } } }),
];
const containers = [
  containerView('aa1', { sandboxId: 's1' }),
  containerView('aa2', { sandboxId: 's1' }, { startedAtNs: '5' }),
  containerView('bb1', { sandboxId: 's2', spec: { ...containerSpec, labels: { app: 'db' } } }, { startedAtNs: '5', finishedAtNs: '6' }),
];
const ofSandboxes = (filter?: PodSandboxFilter) => selectSandboxes(sandboxes, filter).map(({ record }) => record.id);
const ofContainers = (filter?: ContainerFilter) => selectContainers(containers, filter).map(({ record }) => record.id);

test('no filter and an empty one select all', () => {
  for (const filter of [undefined, {}, { id: '', label_selector: {} }]) {
    assert.deepEqual(ofSandboxes(filter), ['aa1', 'aa2', 'bb1']);
    assert.deepEqual(ofContainers(filter), ['aa1', 'aa2', 'bb1']);
  }
});

test('an id may be a prefix; an unknown one selects nothing', () => {
  assert.deepEqual(ofSandboxes({ id: 'aa' }), ['aa1', 'aa2']);
  assert.deepEqual(ofContainers({ id: 'bb1' }), ['bb1']);
  assert.deepEqual(ofContainers({ id: 'bb11' }), []);
  assert.deepEqual(ofContainers({ pod_sandbox_id: 's1' }), ['aa1', 'aa2']);
  assert.deepEqual(ofContainers({ pod_sandbox_id: 's9' }), []);
});

test('an absent state selects all; an empty message selects the state of value zero', () => {
  assert.deepEqual(ofSandboxes({ state: {} }), ['aa1', 'bb1']);
  assert.deepEqual(ofSandboxes({ state: { state: 'SANDBOX_NOTREADY' } }), ['aa2']);
  assert.deepEqual(ofContainers({ state: {} }), ['aa1']);
  assert.deepEqual(ofContainers({ state: { state: 'CONTAINER_RUNNING' } }), ['aa2']);
  assert.deepEqual(ofContainers({ state: { state: 'CONTAINER_EXITED' } }), ['bb1']);
  assert.deepEqual(ofContainers({ state: { state: 'CONTAINER_UNKNOWN' } }), []);
});

test('all labels, including empty ones, and all conditions must match', () => {
  assert.deepEqual(ofSandboxes({ label_selector: { app: 'db', tier: '' } }), ['bb1']);
  assert.deepEqual(ofSandboxes({ label_selector: { app: 'web', tier: '' } }), []);
  assert.deepEqual(ofSandboxes({ label_selector: { toString: 'x' } }), []);
  assert.deepEqual(ofContainers({ id: 'aa', pod_sandbox_id: 's1', state: { state: 'CONTAINER_RUNNING' }, label_selector: { app: 'web' } }), ['aa2']);
  assert.deepEqual(ofContainers({ id: 'aa', label_selector: { app: 'db' } }), []);
});
