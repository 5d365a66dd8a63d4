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

test("readDeviceFile() reads a file written by a GPU vendor's toolkit", () => {
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

test('readDeviceFile() maps node types, leaves absent values to the host, and grants no access for `none`', () => {
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

test('readDeviceFile() defaults to bind mounts, uses the last propagation, and makes `bind` non-recursive', () => {
  const mount = (options?: string[], type?: string) => edits({ mounts: [{ hostPath: '/h', containerPath: '/c', options, type }] }).mounts[0];
  assert.deepEqual([mount()?.isReadonly, mount()?.isShallow, mount()?.propagation], [false, undefined, 'private']);
  assert.equal(mount(['bind'])?.isShallow, true);
  assert.equal(mount(['bind', 'rbind'])?.isShallow, undefined);
  assert.equal(mount(['rprivate', 'rslave'], 'none')?.propagation, 'host-to-container');
  assert.equal(mount(['rshared', 'rw'], 'bind')?.propagation, 'bidirectional');
});

test('readDeviceFile() accepts a file with unsupported edits and records each as an error text of the device', () => {
  const refusals = (containerEdits: object) => edits(containerEdits).refusals.join();
  assert.match(refusals({ netDevices: [{ hostInterfaceName: 'eth1', name: 'net0' }] }), /^netDevices: .*\(eth1\)$/);
  assert.match(refusals({ intelRdt: { closID: 'gold', schemata: ['L3:0=f'] } }), /^intelRdt: /);
  assert.match(refusals({ hooks: [{ hookName: 'startContainer', path: '/bin/x' }] }), /^hook startContainer \/bin\/x: /);
  assert.match(refusals({ mounts: [{ hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs' }] }), /^mount \/t: unsupported type "tmpfs"/);
  assert.match(refusals({ mounts: [{ hostPath: '/h', containerPath: '/t', options: ['idmap', 'ro'] }] }), /^mount \/t: .* "idmap"$/);
});

test('readDeviceFile() reports the path of an invalid edit', () => {
  refused({ env: ['A'] }, /^devices\[0\]\.containerEdits\.env: "A" is not NAME=VALUE$/);
  refused({ env: ['=b'] }, /NAME=VALUE/);
  refused({ env: ['A=\0'] }, /env\[0\] contains NUL/);
  refused({ deviceNodes: [{ path: 'null' }] }, /deviceNodes\[0\]\.path is "null"; it must be an absolute path/);
  refused({ deviceNodes: [{ path: '/..' }] }, /path: invalid path/);
  refused({ deviceNodes: [{}] }, /deviceNodes\[0\]\.path is missing/);
  refused({ deviceNodes: [{ path: '/dev/x', type: 'd' }] }, /unknown type "d"; want b, c, u or p/);
  refused({ deviceNodes: [{ path: '/dev/x', permissions: 'rx' }] }, /permissions: "rx"/);
  refused({ deviceNodes: [{ path: '/dev/x', uid: -1 }] }, /uid is -1; it must be an integer from 0 to 4294967294/);
  refused({ deviceNodes: [{ path: '/dev/x', uid: 2 ** 32 - 1 }] }, /uid is 4294967295/);
  refused({ deviceNodes: [{ path: '/dev/x', major: 4096 }] }, /major is 4096/);
  refused({ mounts: [{ hostPath: '/h', containerPath: '/' }] }, /containerPath: invalid path "\/"/);
  refused({ mounts: [{ hostPath: 'h', containerPath: '/c' }] }, /hostPath: "h" is not an absolute path/);
  refused({ hooks: [{ hookName: 'before', path: '/h' }] }, /unknown hook "before"/);
  refused({ hooks: [{ hookName: 'prestart', path: 'h' }] }, /absolute path/);
  refused({ hooks: [{ hookName: 'prestart', path: '/h', timeout: 0 }] }, /timeout must be greater than 0/);
  refused({ additionalGids: ['44'] }, /additionalGids\[0\] is "44"/);
  refused({ deviceNode: [] }, /^devices\[0\]\.containerEdits: unknown field "deviceNode"$/);
  refused({ __proto__: null, constructor: [] }, /"constructor"/);
});

test('readDeviceFile() ignores case in field names and accepts numbers as strings, as Go does', () => {
  assert.deepEqual(edits({ additionalGIDs: [7] }).gids, [7]);
  assert.deepEqual(edits({ additionalGids: [7, null], AdditionalGids: [8] }).gids, [7]);
  assert.ok(readDeviceFile({ cdiVersion: '1.0.0', kind: 'v/c', devices: [{ name: 0, containerEdits: {} }] }).devices.has('v/c=0'));
});

test('readDeviceFile() requires a supported version, a kind and unique device names', () => {
  const wrong = (changes: object, message: RegExp) => assert.throws(() => readDeviceFile(fileOf({}, changes)), { code: 'INVALID_ARGUMENT', message });
  wrong({ cdiVersion: undefined }, /^cdiVersion is missing; it must be a string$/);
  wrong({ cdiVersion: '2.0.0' }, /unsupported version "2\.0\.0"/);
  wrong({ cdiVersion: 'latest' }, /invalid version "latest"/);
  wrong({ kind: 'gpu' }, /^kind: "gpu" is not VENDOR\/CLASS$/);
  wrong({ devices: [] }, /^missing devices$/);
  wrong({ devices: undefined }, /^missing devices$/);
  wrong({ devices: [{ name: 'a' }, { name: 'a' }] }, /^devices\[1\]: duplicate device "v\.com\/dev=a"$/);
  wrong({ devices: [{ name: 'a/b' }] }, /invalid device name "a\/b"/);
  wrong({ containerEdits: [] }, /^containerEdits is a list; it must be an object$/);
});

test('readDeviceFile() accepts arbitrary input or refuses it with a BerthError', () => {
  const oddValues = [null, undefined, true, 0, -1, 1.5, Number.NaN, '', 'x', '\0', [], [[]], {}, { a: 1 }, 10n, Symbol.iterator, 'x'.repeat(100_000)];
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
  for (const document of oddValues.flatMap((value) => [value, ...withEach(whole, value)])) {
    tried += 1;
    try {
      readDeviceFile(document);
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('\n'), String(error));
      assert.ok(error.message.length < 300, 'one line');
    }
  }
  assert.ok(tried > 500);
});

/** Returns copies of a value in which each part in turn is replaced. */
function withEach(value: unknown, replacement: unknown): unknown[] {
  if (Array.isArray(value)) {
    return value.flatMap((item, i) => [replacement, ...withEach(item, replacement)].map((changed) => value.with(i, changed)));
  }
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, item]) =>
    [replacement, ...withEach(item, replacement)].map((changed) => ({ ...value, [key]: changed })),
  );
}
