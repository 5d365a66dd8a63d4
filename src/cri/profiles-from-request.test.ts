import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkAppArmor, checkSelinux, seccompProfile } from './profiles-from-request.ts';

const plain = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };

test('seccompProfile() takes an empty message for the default profile, and none for unconfined', () => {
  assert.deepEqual(seccompProfile({}), { kind: 'unconfined' });
  assert.deepEqual(seccompProfile({ seccomp: {} }), { kind: 'runtime-default' });
  assert.deepEqual(seccompProfile({ seccomp: { profile_type: 'Unconfined' } }), { kind: 'unconfined' });
});

test('seccompProfile() takes the deprecated text only without the message', () => {
  const forms = { '': 'unconfined', unconfined: 'unconfined', 'runtime/default': 'runtime-default', 'docker/default': 'runtime-default' };
  for (const [text, kind] of Object.entries(forms)) assert.deepEqual(seccompProfile({ seccomp_profile_path: text }), { kind });
  assert.deepEqual(seccompProfile({ seccomp_profile_path: 'localhost//p/x.json' }), { kind: 'localhost', path: '/p/x.json' });
  assert.deepEqual(seccompProfile({ seccomp: {}, seccomp_profile_path: 'unconfined' }), { kind: 'runtime-default' });
});

test('seccompProfile() wants an absolute path for a localhost profile', () => {
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

test('checkAppArmor() takes nothing and Unconfined on any node, and says why it takes no other', () => {
  for (const hasAppArmor of [false, true]) {
    const facts = { ...plain, hasAppArmor };
    for (const fields of [
      {},
      { apparmor_profile: 'unconfined' },
      { apparmor: { profile_type: 'Unconfined' }, apparmor_profile: 'localhost/x' } as const,
    ]) {
      checkAppArmor(fields, facts, false);
    }
    const code = hasAppArmor ? 'UNIMPLEMENTED' : 'INVALID_ARGUMENT';
    for (const fields of [{ apparmor: {} }, { apparmor_profile: 'localhost/x' }, { apparmor: {}, apparmor_profile: 'unconfined' }]) {
      assert.throws(() => checkAppArmor(fields, facts, false), { code }, JSON.stringify(fields));
    }
  }
});

test('checkAppArmor() lets a privileged container go without the default profile', () => {
  checkAppArmor({ apparmor: {} }, { ...plain, hasAppArmor: true }, true);
  assert.throws(() => checkAppArmor({ apparmor: { profile_type: 'Localhost', localhost_ref: 'x' } }, { ...plain, hasAppArmor: true }, true));
});

test('checkSelinux() refuses a malformed level on any node, and a good one only where it would have to be set', () => {
  const good = ['s0', 's0:c1', 's0:c1,c2', 's0:c0.c1023', 's0-s15:c0.c3,c5'];
  for (const level of good) checkSelinux({ level }, plain, false);
  for (const level of ['0', 's', 's0:', 's0:c1024', 's0:c1,', 's0:d1', 's0 ', 's0:c1.', 'S0']) {
    assert.throws(() => checkSelinux({ level }, plain, false), { code: 'INVALID_ARGUMENT', message: /malformed/ }, level);
  }
  const facts = { ...plain, hasSelinux: true };
  checkSelinux({}, facts, false);
  checkSelinux({ level: 's0' }, facts, true);
  assert.throws(() => checkSelinux({ level: 's0' }, facts, false), { code: 'UNIMPLEMENTED' });
});
