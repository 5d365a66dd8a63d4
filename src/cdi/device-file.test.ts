import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../lib/errors.ts';
import type { ContainerEdits } from './container-edits.ts';
import { readDeviceFile } from './device-file.ts';

const fileOf = (containerEdits: unknown, changes: object = {}) => ({
  cdiVersion: '0.6.0',
  kind: 'v.com/dev',
  devices: [{ name: '0', containerEdits }],
  ...changes,
});

const edits = (containerEdits: unknown): ContainerEdits => {
  const found = readDeviceFile(fileOf(containerEdits)).devices.get('v.com/dev=0');
  assert.ok(found);
  return found;
};

const refused = (containerEdits: unknown, message: RegExp) =>
  assert.throws(() => readDeviceFile(fileOf(containerEdits)), { code: 'INVALID_ARGUMENT', message });

test('readDeviceFile() reads what the toolkit of a GPU vendor writes', () => {
  const path = '/usr/bin/nvidia-cdi-hook';
  const gpu = edits({
    deviceNodes: [{ path: '/dev/nvidia0', major: 195, fileMode: 438, permissions: 'rw', uid: 0, gid: 44 }],
    hooks: [
      { hookName: 'createContainer', path, args: ['nvidia-cdi-hook', 'update-ldcache', '--folder', '/usr/lib64'], env: ['DEBUG=false'], timeout: 5 },
    ],
    mounts: [
      { hostPath: '/usr/lib64/libcuda.so.1', containerPath: '/usr/lib64/libcuda.so.1', options: ['ro', 'nosuid', 'nodev', 'rbind', 'rprivate'] },
    ],
    env: ['NVIDIA_VISIBLE_DEVICES=void', 'EMPTY='],
    additionalGids: [0, 44],
  });
  assert.deepEqual(gpu, {
    env: [
      { name: 'NVIDIA_VISIBLE_DEVICES', value: Buffer.from('void') },
      { name: 'EMPTY', value: Buffer.from('') },
    ],
    nodes: [{ path: '/dev/nvidia0', hostPath: '/dev/nvidia0', major: 195, minor: 0, mode: 0o666, uid: 0, gid: 44, permissions: 'rw' }],
    mounts: [
      {
        containerPath: '/usr/lib64/libcuda.so.1',
        hostPath: '/usr/lib64/libcuda.so.1',
        isReadonly: true,
        isRecursiveReadonly: false,
        propagation: 'private',
        wantsSelinuxRelabel: false,
        options: ['nosuid', 'nodev'],
        mustExist: true,
      },
    ],
    gids: [44],
    hooks: [
      {
        point: 'createContainer',
        path,
        argv: ['nvidia-cdi-hook', 'update-ldcache', '--folder', '/usr/lib64'],
        env: ['DEBUG=false'],
        timeoutMs: 5000,
      },
    ],
    refusals: [],
  });
});

test('nodes: types by their letters, what is left out is left to the host, and `none` allows nothing', () => {
  const { nodes } = edits({
    deviceNodes: [
      { path: '/dev/a', hostPath: '/dev/b', type: 'u', major: 1, minor: 3, permissions: 'none' },
      { path: '/dev/p', type: 'p', major: 9 },
      { path: '/dev/c', hostPath: '', type: '', major: 0, minor: 0, permissions: '', uid: null },
    ],
  });
  assert.deepEqual(nodes, [
    { path: '/dev/a', hostPath: '/dev/b', type: 'char', major: 1, minor: 3, permissions: '' },
    { path: '/dev/p', hostPath: '/dev/p', type: 'fifo', major: 0, minor: 0, permissions: 'rwm' },
    { path: '/dev/c', hostPath: '/dev/c', permissions: 'rwm' },
  ]);
});

test('mounts: a bind unless another type is named, the last propagation counts, `bind` alone is shallow', () => {
  const mount = (options?: string[], type?: string) => edits({ mounts: [{ hostPath: '/h', containerPath: '/c', options, type }] }).mounts[0];
  assert.deepEqual([mount()?.isReadonly, mount()?.isShallow, mount()?.propagation], [false, undefined, 'private']);
  assert.equal(mount(['bind'])?.isShallow, true);
  assert.equal(mount(['bind', 'rbind'])?.isShallow, undefined);
  assert.equal(mount(['rprivate', 'rslave'], 'none')?.propagation, 'host-to-container');
  assert.equal(mount(['rshared', 'rw'], 'bind')?.propagation, 'bidirectional');
});

test('what berth does not do is a sentence with the device, and no fault of the file', () => {
  const sentence = (containerEdits: object) => edits(containerEdits).refusals.join();
  assert.match(sentence({ netDevices: [{ hostInterfaceName: 'eth1', name: 'net0' }] }), /^netDevices: .*\(eth1\)$/);
  assert.match(sentence({ intelRdt: { closID: 'gold', schemata: ['L3:0=f'] } }), /^intelRdt: /);
  assert.match(sentence({ hooks: [{ hookName: 'startContainer', path: '/bin/x' }] }), /^hook startContainer \/bin\/x: /);
  assert.match(sentence({ mounts: [{ hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs' }] }), /^mount \/t: .* no "tmpfs"$/);
  assert.match(sentence({ mounts: [{ hostPath: '/h', containerPath: '/t', options: ['idmap', 'ro'] }] }), /^mount \/t: .* "idmap"$/);
});

test('edits that contradict the specification are refused by their place', () => {
  refused({ env: ['A'] }, /^devices\[0\]\.containerEdits\.env: "A" is not NAME=VALUE$/);
  refused({ env: ['=b'] }, /NAME=VALUE/);
  refused({ env: ['A=\0'] }, /env\[0\] holds a NUL/);
  refused({ deviceNodes: [{ path: 'null' }] }, /deviceNodes\[0\]\.path is "null"; it must be an absolute path/);
  refused({ deviceNodes: [{ path: '/..' }] }, /nothing can be made at/);
  refused({ deviceNodes: [{}] }, /deviceNodes\[0\]\.path is missing/);
  refused({ deviceNodes: [{ path: '/dev/x', type: 'd' }] }, /"d" is none of b, c, u and p/);
  refused({ deviceNodes: [{ path: '/dev/x', permissions: 'rx' }] }, /permissions: "rx"/);
  refused({ deviceNodes: [{ path: '/dev/x', uid: -1 }] }, /uid is -1; it must be a whole number from 0 to 4294967294/);
  refused({ deviceNodes: [{ path: '/dev/x', uid: 2 ** 32 - 1 }] }, /uid is 4294967295/);
  refused({ deviceNodes: [{ path: '/dev/x', major: 4096 }] }, /major is 4096/);
  refused({ mounts: [{ hostPath: '/h', containerPath: '/' }] }, /nothing can be mounted on "\/"/);
  refused({ mounts: [{ hostPath: 'h', containerPath: '/c' }] }, /hostPath: "h" is not an absolute path/);
  refused({ hooks: [{ hookName: 'before', path: '/h' }] }, /there is no hook "before"/);
  refused({ hooks: [{ hookName: 'prestart', path: 'h' }] }, /absolute path/);
  refused({ hooks: [{ hookName: 'prestart', path: '/h', timeout: 0 }] }, /timeout is 0/);
  refused({ additionalGids: ['44'] }, /additionalGids\[0\] is "44"/);
  refused({ deviceNode: [] }, /^devices\[0\]\.containerEdits has a field "deviceNode" that berth does not know$/);
  refused({ __proto__: null, constructor: [] }, /"constructor"/);
});

test('names of fields match without regard to case, and numbers are texts where texts belong: as Go reads these files', () => {
  assert.deepEqual(edits({ additionalGIDs: [7] }).gids, [7]);
  assert.ok(readDeviceFile({ cdiVersion: '1.0.0', kind: 'v/c', devices: [{ name: 0, containerEdits: {} }] }).devices.has('v/c=0'));
});

test('a file needs a version that is known, a kind, and devices of different names', () => {
  const wrong = (changes: object, message: RegExp) => assert.throws(() => readDeviceFile(fileOf({}, changes)), { code: 'INVALID_ARGUMENT', message });
  wrong({ cdiVersion: undefined }, /^cdiVersion is missing; it must be a text$/);
  wrong({ cdiVersion: '2.0.0' }, /versions 0 and 1/);
  wrong({ cdiVersion: 'latest' }, /not a version/);
  wrong({ kind: 'gpu' }, /^kind: "gpu" is not VENDOR\/CLASS$/);
  wrong({ devices: [] }, /^devices: there are none$/);
  wrong({ devices: undefined }, /^devices: there are none$/);
  wrong({ devices: [{ name: 'a' }, { name: 'a' }] }, /^devices\[1\]: there is another device "v\.com\/dev=a" in the file$/);
  wrong({ devices: [{ name: 'a/b' }] }, /"a\/b" is no name of a device/);
  wrong({ containerEdits: [] }, /^containerEdits is a list; it must be an object$/);
});

test('whatever stands where, the file is read or refused with a BerthError', () => {
  const odd = [null, undefined, true, 0, -1, 1.5, Number.NaN, '', 'x', '\0', [], [[]], {}, { a: 1 }, 10n, Symbol.iterator, 'x'.repeat(100_000)];
  const whole = fileOf({
    env: ['A=b'],
    deviceNodes: [{ path: '/dev/x', hostPath: '/dev/y', type: 'c', major: 1, minor: 2, fileMode: 3, permissions: 'r', uid: 4, gid: 5 }],
    mounts: [{ hostPath: '/h', containerPath: '/c', options: ['ro'], type: 'bind' }],
    hooks: [{ hookName: 'prestart', path: '/h', args: ['h'], env: ['A=b'], timeout: 1 }],
    intelRdt: { closID: 'x' },
    netDevices: [{ hostInterfaceName: 'a', name: 'b' }],
    additionalGids: [1],
  });
  let tried = 0;
  for (const document of odd.flatMap((value) => [value, ...withEach(whole, value)])) {
    tried += 1;
    try {
      readDeviceFile(document);
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('\n'), String(error));
      assert.ok(error.message.length < 300, 'a line');
    }
  }
  assert.ok(tried > 500);
});

/** Copies of a value with each part of it, in turn, replaced. */
function withEach(value: unknown, replacement: unknown): unknown[] {
  if (Array.isArray(value)) {
    return value.flatMap((item, i) => [replacement, ...withEach(item, replacement)].map((changed) => value.with(i, changed)));
  }
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) =>
    [replacement, ...withEach(item, replacement)].map((changed) => ({ ...value, [key]: changed })),
  );
}
