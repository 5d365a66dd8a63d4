import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Mount } from '../wire/messages.ts';
import { deviceFrom, mountFrom } from './mounts-from-request.ts';

const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const mount = (message: Mount) => mountFrom({ container_path: '/data', host_path: '/srv', ...message }, facts);

test('mountFrom() keeps paths as given, because the status returns them', () => {
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

test('mountFrom() refuses missing and relative paths, and NUL', () => {
  for (const path of ['', 'data', './data', '/da\0ta']) {
    assert.throws(() => mount({ container_path: path }), { code: 'INVALID_ARGUMENT', message: /container_path/ });
    assert.throws(() => mount({ host_path: path }), { code: 'INVALID_ARGUMENT', message: /host_path/ });
  }
});

test('mountFrom() accepts recursive_read_only with readonly and private propagation, if the kernel supports it', () => {
  assert.equal(mount({ readonly: true, recursive_read_only: true }).isRecursiveReadonly, true);
  assert.throws(() => mount({ recursive_read_only: true }), { code: 'INVALID_ARGUMENT', message: /requires readonly/ });
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

test('mountFrom() refuses / as target, in any notation', () => {
  for (const container_path of ['/', '//', '/./', '/..', '/a/../']) {
    assert.throws(() => mount({ container_path }), { code: 'INVALID_ARGUMENT', message: /container_path: must not be \/$/ }, container_path);
  }
});

test('mountFrom() accepts an image or a directory in it, read-only and without host_path', () => {
  const image = { image: 'sha256:1111' };
  assert.deepEqual(mount({ image, host_path: '', readonly: true }).image, { requested: 'sha256:1111', subPath: '' });
  assert.equal(mount({ image, host_path: '', readonly: true, image_sub_path: 'a/b' }).image?.subPath, 'a/b');
  assert.equal(mount({ image: { image: '' } }).image, undefined);
  assert.throws(() => mount({ image, host_path: '' }), { code: 'INVALID_ARGUMENT', message: /readonly/ });
  assert.throws(() => mount({ image, readonly: true }), { code: 'INVALID_ARGUMENT', message: /both/ });
});

test("mountFrom() accepts only the id mappings of the sandbox's user namespace", () => {
  const [uids, gids] = [
    { hostId: 1000, length: 10 },
    { hostId: 2000, length: 10 },
  ];
  const mapped = {
    container_path: '/data',
    host_path: '/srv',
    uidMappings: [{ host_id: 1000, length: 10 }],
    gidMappings: [{ host_id: 2000, length: 10 }],
  };
  assert.deepEqual(mountFrom(mapped, facts, { uids, gids }).ids, { uids, gids });
  assert.equal(mountFrom({ ...mapped, uidMappings: [], gidMappings: [] }, facts, { uids, gids }).ids, undefined);
  const wrong = [{ gidMappings: [] }, { uidMappings: [{ host_id: 1001, length: 10 }] }, { gidMappings: [{ host_id: 2000, length: 11 }] }];
  for (const change of wrong)
    assert.throws(() => mountFrom({ ...mapped, ...change }, facts, { uids, gids }), { code: 'INVALID_ARGUMENT', message: /mount \/data: / });
  assert.throws(() => mountFrom(mapped, facts), { code: 'INVALID_ARGUMENT', message: /differ from those of the sandbox/ });
});

test('mountFrom() refuses unknown mount options', () => {
  assert.deepEqual(mount({ mount_options: ['noexec', 'nodev', 'nosuid'] }).options, ['noexec', 'nodev', 'nosuid']);
  for (const option of ['exec', 'ro', 'NOEXEC', '']) assert.throws(() => mount({ mount_options: [option] }), { message: /unknown mount option/ });
});

test('deviceFrom() accepts permissions r, w and m, each once, and defaults to all', () => {
  const device = (permissions?: string) => deviceFrom({ container_path: '/dev/x', host_path: '/dev/null', permissions }).permissions;
  assert.deepEqual([device(), device('mrw'), device('r')], ['rwm', 'mrw', 'r']);
  for (const permissions of ['x', 'rr', 'rwmr', 'R', 'rw '])
    assert.throws(() => device(permissions), { code: 'INVALID_ARGUMENT', message: /subset of rwm/ });
  assert.throws(() => deviceFrom({ container_path: 'dev/x', host_path: '/dev/null' }), { message: /container_path/ });
  assert.throws(() => deviceFrom({ container_path: '/dev/x' }), { message: /host_path/ });
});
