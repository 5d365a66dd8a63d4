import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sandboxSpec } from '../../../test/support/cri-fakes.ts';
import type { LinuxContainerSecurityContext } from '../wire/messages.ts';
import { securitySpecFrom } from './security-from-request.ts';
import { userSpec } from './user-from-request.ts';

const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const privileged = { ...sandboxSpec, isPrivileged: true };
const security = (message: LinuxContainerSecurityContext, sandbox = sandboxSpec) => securitySpecFrom(message, sandbox, facts);

test('a privileged container requires a privileged sandbox, and has neither seccomp nor masked paths', () => {
  const message = { privileged: true, seccomp: {}, masked_paths: ['/proc/kcore'], readonly_paths: ['/proc/sys'] };
  assert.throws(() => security(message), { code: 'INVALID_ARGUMENT', message: /^security_context.privileged: / });
  const { seccomp, maskedPaths, readonlyPaths } = security(message, privileged);
  assert.deepEqual({ seccomp, maskedPaths, readonlyPaths }, { seccomp: { kind: 'unconfined' }, maskedPaths: [], readonlyPaths: [] });
});

test('masked and read-only paths are exactly the given ones', () => {
  assert.deepEqual(security({ masked_paths: ['/proc/kcore'] }).maskedPaths, ['/proc/kcore']);
  assert.deepEqual(security({}).maskedPaths, []);
  assert.throws(() => security({ masked_paths: ['proc'] }), { message: /^masked_paths: / });
  assert.throws(() => security({ readonly_paths: ['proc'] }), { message: /^readonly_paths: / });
});

test('capabilities are converted to upper case without prefix', () => {
  const capabilities = { add_capabilities: ['net_admin', 'CAP_SYS_TIME'], drop_capabilities: ['all'], add_ambient_capabilities: ['cap_kill'] };
  const { addCapabilities, dropCapabilities, addAmbientCapabilities } = security({ capabilities });
  assert.deepEqual([addCapabilities, dropCapabilities, addAmbientCapabilities], [['NET_ADMIN', 'SYS_TIME'], ['ALL'], ['KILL']]);
  for (const name of ['', 'CAP_', 'NET ADMIN'])
    assert.throws(() => security({ capabilities: { add_capabilities: [name] } }), { message: /^capabilities: / });
});

test('userSpec() distinguishes user 0 and no user', () => {
  const groups = { supplementalGroups: [], groupsPolicy: 'merge' };
  assert.deepEqual(userSpec({}), groups);
  assert.deepEqual(userSpec({ run_as_user: {} }), { uid: 0, ...groups });
  assert.deepEqual(userSpec({ run_as_user: { value: '4294967294' }, run_as_group: { value: '7' } }), { uid: 4294967294, gid: 7, ...groups });
  assert.deepEqual(userSpec({ run_as_username: 'www', run_as_group: {}, supplemental_groups: ['5'], supplemental_groups_policy: 'Strict' }), {
    username: 'www',
    gid: 0,
    supplementalGroups: [5],
    groupsPolicy: 'strict',
  });
});

test('userSpec() refuses a group without a user, a name with a number, and invalid ids', () => {
  const refused = (fields: object, field: string) => {
    assert.throws(() => userSpec(fields), { code: 'INVALID_ARGUMENT', message: new RegExp(`^${field}: `) }, JSON.stringify(fields));
  };
  refused({ run_as_group: { value: '1' } }, 'run_as_group');
  refused({ run_as_user: {}, run_as_username: 'www' }, 'run_as_username');
  refused({ run_as_username: 'a:b' }, 'run_as_username');
  refused({ run_as_user: { value: '-1' } }, 'run_as_user');
  refused({ run_as_user: { value: '4294967295' } }, 'run_as_user');
  refused({ supplemental_groups: ['-1'] }, 'supplemental_groups');
});
