import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Mount } from './messages.ts';
import { deviceFrom, mountFrom } from './mounts-from-request.ts';

const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const mount = (message: Mount) => mountFrom({ container_path: '/data', host_path: '/srv', ...message }, facts);

test('mountFrom() keeps paths as they were given, since the status shows them', () => {
  assert.deepEqual(mount({ container_path: '/data//x/', host_path: '/srv/../srv/' }), {
    containerPath: '/data//x/',
    hostPath: '/srv/../srv/',
    isReadonly: false,
    isRecursiveReadonly: false,
    propagation: 'private',
    wantsSelinuxRelabel: false,
    options: [],
  });
});

test('mountFrom() refuses paths that are missing, relative or cut off', () => {
  for (const path of ['', 'data', './data', '/da\0ta']) {
    assert.throws(() => mount({ container_path: path }), { code: 'INVALID_ARGUMENT', message: /container_path/ });
    assert.throws(() => mount({ host_path: path }), { code: 'INVALID_ARGUMENT', message: /host_path/ });
  }
});

test('mountFrom() takes recursive_read_only with readonly and private propagation, on a kernel that has it', () => {
  assert.equal(mount({ readonly: true, recursive_read_only: true }).isRecursiveReadonly, true);
  assert.throws(() => mount({ recursive_read_only: true }), { code: 'INVALID_ARGUMENT', message: /needs readonly/ });
  for (const propagation of ['PROPAGATION_HOST_TO_CONTAINER', 'PROPAGATION_BIDIRECTIONAL'] as const) {
    assert.throws(() => mount({ readonly: true, recursive_read_only: true, propagation }), {
      code: 'INVALID_ARGUMENT',
      message: /private propagation/,
    });
  }
  const old = { ...facts, canMountRecursivelyReadonly: false };
  const message = { container_path: '/data', host_path: '/srv', readonly: true, recursive_read_only: true };
  assert.throws(() => mountFrom(message, old), { code: 'FAILED_PRECONDITION', message: /^RROUnsupported: / });
});

test('mountFrom() refuses an image that is writable or also a path as wrong, else as not there yet', () => {
  const image = { image: 'sha256:1111' };
  assert.throws(() => mount({ image, host_path: '', readonly: true }), { code: 'UNIMPLEMENTED', message: /mount \/data: .*images/ });
  assert.throws(() => mount({ image, host_path: '' }), { code: 'INVALID_ARGUMENT', message: /readonly/ });
  assert.throws(() => mount({ image, readonly: true }), { code: 'INVALID_ARGUMENT', message: /both/ });
});

test('mountFrom() refuses id mappings and mount options that it does not know', () => {
  assert.throws(() => mount({ uidMappings: [{ length: 1 }] }), { code: 'UNIMPLEMENTED' });
  assert.throws(() => mount({ gidMappings: [{ length: 1 }] }), { code: 'UNIMPLEMENTED' });
  assert.deepEqual(mount({ mount_options: ['noexec', 'nodev', 'nosuid'] }).options, ['noexec', 'nodev', 'nosuid']);
  for (const option of ['exec', 'ro', 'NOEXEC', '']) assert.throws(() => mount({ mount_options: [option] }), { message: /none of noexec/ });
});

test('deviceFrom() takes permissions of r, w and m, each once, and all where none are given', () => {
  const device = (permissions?: string) => deviceFrom({ container_path: '/dev/x', host_path: '/dev/null', permissions }).permissions;
  assert.deepEqual([device(), device('mrw'), device('r')], ['rwm', 'mrw', 'r']);
  for (const permissions of ['x', 'rr', 'rwmr', 'R', 'rw '])
    assert.throws(() => device(permissions), { code: 'INVALID_ARGUMENT', message: /subset of rwm/ });
  assert.throws(() => deviceFrom({ container_path: 'dev/x', host_path: '/dev/null' }), { message: /container_path/ });
  assert.throws(() => deviceFrom({ container_path: '/dev/x' }), { message: /host_path/ });
});
