import assert from 'node:assert/strict';
import { test } from 'node:test';
import { appArmorProfile, checkSelinux, seccompProfile } from './profiles-from-request.ts';

const plain = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };

test('seccompProfile() treats an empty message as the default profile, and an absent one as unconfined', () => {
  assert.deepEqual(seccompProfile({}), { kind: 'unconfined' });
  assert.deepEqual(seccompProfile({ seccomp: {} }), { kind: 'runtime-default' });
  assert.deepEqual(seccompProfile({ seccomp: { profile_type: 'Unconfined' } }), { kind: 'unconfined' });
});

test('seccompProfile() uses the deprecated string only without the message', () => {
  const forms = { '': 'unconfined', unconfined: 'unconfined', 'runtime/default': 'runtime-default', 'docker/default': 'runtime-default' };
  for (const [text, kind] of Object.entries(forms)) assert.deepEqual(seccompProfile({ seccomp_profile_path: text }), { kind });
  assert.deepEqual(seccompProfile({ seccomp_profile_path: 'localhost//p/x.json' }), { kind: 'localhost', path: '/p/x.json' });
  assert.deepEqual(seccompProfile({ seccomp: {}, seccomp_profile_path: 'unconfined' }), { kind: 'runtime-default' });
});

test('seccompProfile() requires an absolute path for a localhost profile', () => {
  assert.deepEqual(seccompProfile({ seccomp: { profile_type: 'Localhost', localhost_ref: '/p/x.json' } }), { kind: 'localhost', path: '/p/x.json' });
  for (const localhost_ref of [undefined, '', 'x.json', '/p\0x']) {
    assert.throws(() => seccompProfile({ seccomp: { profile_type: 'Localhost', localhost_ref } }), {
      code: 'INVALID_ARGUMENT',
      message: /^seccomp.localhost_ref: /,
    });
  }
  for (const text of ['localhost/x.json', 'default', 'localhost'])
    assert.throws(() => seccompProfile({ seccomp_profile_path: text }), { message: /^seccomp_profile_path: / });
});

test('appArmorProfile() returns the requested profile, prefers the message to the string, and defaults to its own', () => {
  const on = { ...plain, hasAppArmor: true };
  const localhost = { profile_type: 'Localhost', localhost_ref: 'custom' } as const;
  for (const facts of [plain, on]) {
    assert.equal(appArmorProfile({ apparmor_profile: 'unconfined' }, facts, false), undefined);
    assert.equal(appArmorProfile({ apparmor: { profile_type: 'Unconfined' }, apparmor_profile: 'localhost/x' }, facts, false), undefined);
  }
  assert.equal(appArmorProfile({}, plain, false), undefined);
  assert.equal(appArmorProfile({}, on, false), 'berth-default');
  assert.equal(appArmorProfile({ apparmor: {}, apparmor_profile: 'unconfined' }, on, false), 'berth-default');
  assert.equal(appArmorProfile({ apparmor: localhost, apparmor_profile: 'localhost/other' }, on, false), 'custom');
  assert.equal(appArmorProfile({ apparmor_profile: 'localhost/other' }, on, false), 'other');
  for (const fields of [{ apparmor: {} }, { apparmor: localhost }, { apparmor_profile: 'runtime/default' }]) {
    assert.throws(() => appArmorProfile(fields, plain, false), { code: 'INVALID_ARGUMENT' }, JSON.stringify(fields));
  }
  assert.throws(() => appArmorProfile({ apparmor: { profile_type: 'Localhost' } }, on, false), /is not unconfined/);
  assert.throws(() => appArmorProfile({ apparmor_profile: 'nonsense' }, on, false), /is not unconfined/);
});

test('appArmorProfile() gives a privileged container a named profile but not the default one', () => {
  const on = { ...plain, hasAppArmor: true };
  assert.equal(appArmorProfile({}, on, true), undefined);
  assert.equal(appArmorProfile({ apparmor: {} }, on, true), undefined);
  assert.equal(appArmorProfile({ apparmor: { profile_type: 'Localhost', localhost_ref: 'x' } }, on, true), 'x');
});

test('seccompProfile() and appArmorProfile() refuse an unknown type, and a localhost profile without its type', () => {
  const on = { ...plain, hasAppArmor: true };
  const unknown = { profile_type: 99 as unknown as 'Localhost' };
  const message = /profile_type: unknown type 99, must be RuntimeDefault, Unconfined or Localhost$/;
  assert.throws(() => seccompProfile({ seccomp: unknown }), { code: 'INVALID_ARGUMENT', message });
  for (const facts of [plain, on]) assert.throws(() => appArmorProfile({ apparmor: unknown }, facts, false), { code: 'INVALID_ARGUMENT', message });
  for (const profile of [{ localhost_ref: '/x' }, { profile_type: 'Unconfined', localhost_ref: '/x' }] as const) {
    const refusal = { code: 'INVALID_ARGUMENT', message: /localhost_ref: requires profile_type Localhost/ };
    assert.throws(() => seccompProfile({ seccomp: profile }), refusal);
    assert.throws(() => appArmorProfile({ apparmor: profile }, on, false), refusal);
  }
});

test('seccompProfile() and appArmorProfile() refuse profiles from registries, and their fields without the type OCI', () => {
  const on = { ...plain, hasAppArmor: true };
  const oci = { profile_type: 'OCI', oci_ref: 'example.com/profile@sha256:1' } as const;
  assert.throws(() => seccompProfile({ seccomp: oci }), { code: 'UNIMPLEMENTED', message: /OCI is not supported/ });
  assert.throws(() => appArmorProfile({ apparmor: oci }, on, false), { code: 'INVALID_ARGUMENT' });
  // A present base means RuntimeDefault even if it is empty.
  for (const profile of [
    { oci_ref: 'example.com/profile@sha256:1' },
    { base_profile: {} },
    { profile_type: 'Unconfined', base_profile: {} },
  ] as const) {
    const refusal = { code: 'INVALID_ARGUMENT', message: /oci_ref and base_profile require profile_type OCI/ };
    assert.throws(() => seccompProfile({ seccomp: profile }), refusal);
    assert.throws(() => appArmorProfile({ apparmor: profile }, on, false), refusal);
  }
});

test('checkSelinux() refuses an invalid level on any node, and a valid one only on a node with SELinux', () => {
  const good = ['s0', 's0:c1', 's0:c1,c2', 's0:c0.c1023', 's0-s15:c0.c3,c5'];
  for (const level of good) assert.ok(checkSelinux({ level }, plain, false), level);
  for (const level of ['0', 's', 's0:', 's0:c1024', 's0:c1,', 's0:d1', 's0 ', 's0:c1.', 'S0']) {
    assert.throws(() => checkSelinux({ level }, plain, false), { code: 'INVALID_ARGUMENT', message: /invalid level/ }, level);
  }
  for (const options of [undefined, {}, { type: 'spc_t', level: 's0' }]) assert.ok(!checkSelinux(options, plain, false), 'nothing is lost');
  assert.ok(!checkSelinux({ type: 'container_t' }, plain, true), 'a privileged container has no label');
  const facts = { ...plain, hasSelinux: true };
  checkSelinux({}, facts, false);
  checkSelinux({ level: 's0' }, facts, true);
  assert.throws(() => checkSelinux({ level: 's0' }, facts, false), { code: 'UNIMPLEMENTED', message: /SELinux is enabled on this node/ });
});
