import assert from 'node:assert/strict';
import { test } from 'node:test';
import type * as cri from '../wire/messages.ts';
import { cgroupAccess } from './cgroups-from-request.ts';
import type { RequestFacts } from './checks.ts';

const node: RequestFacts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const onV2: RequestFacts = { ...node, hasCgroupNamespaces: true, hasDelegatedCgroups: true };

function access(mode: cri.NamespaceMode | undefined, mount: 'READ_ONLY' | 'READ_WRITE' | 'UNSPECIFIED', privileged = false, facts = onV2) {
  const namespace_options = mode === undefined ? {} : { cgroupns_options: { mode } };
  return cgroupAccess({ privileged, namespace_options, cgroup_mount_mode: `CGROUP_MOUNT_MODE_${mount}` }, facts);
}

test('cgroupAccess() is undefined for a request without both fields', () => {
  assert.equal(cgroupAccess({}, onV2), undefined);
  assert.equal(access(undefined, 'UNSPECIFIED'), undefined);
});

test('cgroupAccess() accepts every pair that the CRI allows', () => {
  assert.deepEqual(access('CONTAINER', 'READ_WRITE'), { namespace: 'container', isWritable: true });
  assert.deepEqual(access(undefined, 'READ_WRITE'), { isWritable: true });
  assert.deepEqual(access('NODE', 'READ_ONLY'), { namespace: 'node', isWritable: false });
  assert.deepEqual(access('NODE', 'READ_WRITE', true), { namespace: 'node', isWritable: true });
  assert.deepEqual(access('CONTAINER', 'UNSPECIFIED', true), { namespace: 'container' });
});

test('cgroupAccess() refuses the pairs and modes that the CRI forbids', () => {
  const invalid = { code: 'INVALID_ARGUMENT' };
  assert.throws(() => access('NODE', 'READ_WRITE'), invalid);
  assert.throws(() => access(undefined, 'READ_ONLY', true), invalid);
  for (const mode of ['POD', 'TARGET'] as const) assert.throws(() => access(mode, 'UNSPECIFIED'), invalid);
  // POD is the first value.
  assert.throws(() => cgroupAccess({ namespace_options: { cgroupns_options: {} } }, onV2), invalid);
  const unknown = 7 as unknown as cri.CgroupMountMode;
  assert.throws(() => cgroupAccess({ cgroup_mount_mode: unknown }, onV2), invalid);
});

test('cgroupAccess() refuses what the node cannot provide', () => {
  const missing = { code: 'FAILED_PRECONDITION' };
  assert.throws(() => access(undefined, 'READ_WRITE', false, { ...onV2, hasDelegatedCgroups: false }), missing);
  assert.throws(() => access('CONTAINER', 'UNSPECIFIED', false, node), missing);
  assert.deepEqual(access('NODE', 'READ_ONLY', false, node), { namespace: 'node', isWritable: false });
});
