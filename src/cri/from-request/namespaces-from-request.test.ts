import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerNamespaces, sandboxNamespaces } from './namespaces-from-request.ts';

const pod = { network: 'pod', ipc: 'pod', pid: 'pod' } as const;
const refusal = (code: string, message: RegExp) => ({ code, message });

test('sandboxNamespaces() defaults to POD', () => {
  assert.deepEqual(sandboxNamespaces(undefined), pod);
  assert.deepEqual(sandboxNamespaces({ network: 'NODE', pid: 'CONTAINER', ipc: 'NODE' }), { network: 'node', ipc: 'node', pid: 'container' });
});

test('sandboxNamespaces() refuses modes that are invalid for a sandbox', () => {
  assert.throws(() => sandboxNamespaces({ pid: 'TARGET' }), refusal('INVALID_ARGUMENT', /pid: TARGET/));
  for (const mode of ['CONTAINER', 'TARGET'] as const) {
    assert.throws(() => sandboxNamespaces({ network: mode }), refusal('INVALID_ARGUMENT', /^namespace_options.network: /));
    assert.throws(() => sandboxNamespaces({ ipc: mode }), refusal('INVALID_ARGUMENT', /^namespace_options.ipc: /));
  }
});

test('a user namespace has one mapping of uids and one of gids, which start at id 0 of the container', () => {
  const userns = (userns_options: object) => () => sandboxNamespaces({ userns_options });
  const map = [{ host_id: 100000, length: 65536 }];
  const range = { hostId: 100000, length: 65536 };
  assert.equal(userns({ mode: 'NODE' })().user, undefined);
  assert.deepEqual(userns({ mode: 'POD', uids: map, gids: map })().user, { uids: range, gids: range });
  const wrong = [
    { mode: 'NODE', uids: map },
    { mode: 'CONTAINER', uids: map, gids: map },
    { mode: 'TARGET', uids: map, gids: map },
    { mode: 'POD' },
    { uids: map },
    { uids: map, gids: [...map, ...map] },
    { uids: [{ host_id: 1, container_id: 1, length: 10 }], gids: map },
    { uids: map, gids: [{ host_id: 1, length: 0 }] },
    { uids: map, gids: [{ host_id: 0xfffffffe, length: 2 }] },
    { uids: map, gids: [{ host_id: 0, length: 65536 }] },
  ];
  for (const options of wrong) assert.throws(userns(options), refusal('INVALID_ARGUMENT', /^userns_options/), JSON.stringify(options));
});

test("a container's user namespace must be that of the sandbox", () => {
  const range = { hostId: 100000, length: 65536 };
  const sandbox = { ...pod, user: { uids: range, gids: range } };
  const options = (host_id: number, length = 65536) => ({ userns_options: { uids: [{ host_id, length }], gids: [{ host_id, length }] } });
  assert.deepEqual(containerNamespaces(options(100000), sandbox).user, sandbox.user);
  assert.deepEqual(containerNamespaces(undefined, sandbox).user, sandbox.user);
  for (const wrong of [{}, options(100001), options(100000, 65535), { userns_options: { mode: 'NODE' } } as const]) {
    assert.throws(
      () => containerNamespaces(wrong, sandbox),
      refusal('INVALID_ARGUMENT', /^userns_options: .*but the sandbox has uids 65536 from 100000/),
    );
  }
  assert.throws(() => containerNamespaces(options(100000), pod), refusal('INVALID_ARGUMENT', /but the sandbox has the host's/));
});

test('a container without options uses the namespaces of its sandbox', () => {
  const sandbox = { network: 'node', ipc: 'pod', pid: 'container' } as const;
  assert.deepEqual(containerNamespaces(undefined, sandbox), sandbox);
});

test("pid POD of a container is the pod's pid namespace, which may be the host's", () => {
  assert.equal(containerNamespaces({}, pod).pid, 'pod');
  assert.equal(containerNamespaces({}, { ...pod, pid: 'node' }).pid, 'node');
  assert.throws(() => containerNamespaces({}, { ...pod, pid: 'container' }), refusal('FAILED_PRECONDITION', /no pid namespace to share/));
});

test("a container may use its own pid namespace, the host's, or that of another container", () => {
  assert.equal(containerNamespaces({ pid: 'CONTAINER' }, pod).pid, 'container');
  assert.equal(containerNamespaces({ pid: 'NODE' }, pod).pid, 'node');
  assert.deepEqual(containerNamespaces({ pid: 'TARGET', target_id: 'c1' }, pod), { ...pod, pid: 'target', targetId: 'c1' });
  assert.throws(() => containerNamespaces({ pid: 'TARGET' }, pod), refusal('INVALID_ARGUMENT', /target_id/));
});

test('a container cannot leave the network or ipc namespace of its sandbox', () => {
  assert.throws(() => containerNamespaces({ network: 'NODE' }, pod), refusal('INVALID_ARGUMENT', /network: the container requests NODE/));
  assert.throws(() => containerNamespaces({ ipc: 'NODE' }, pod), refusal('INVALID_ARGUMENT', /ipc: the container requests NODE/));
  assert.equal(containerNamespaces({ pid: 'CONTAINER' }, { ...pod, network: 'node' }).network, 'node');
});
