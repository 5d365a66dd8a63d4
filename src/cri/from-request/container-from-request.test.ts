import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readContract } from '../../../scripts/generate-messages.ts';
import { sandboxSpec } from '../../../test/support/cri-fakes.ts';
import { parseSignal } from '../../engine/plan/signals.ts';
import type { ContainerConfig, Signal } from '../wire/messages.ts';
import { containerSpecFrom, deviceNames } from './container-from-request.ts';

const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const metadata = { name: 'main' };
const image = { image: 'sha256:1111' };
const spec = (config: ContainerConfig, sandbox = sandboxSpec) => containerSpecFrom({ config: { metadata, image, ...config } }, sandbox, facts);
const refused = (config: ContainerConfig, field: string, code = 'INVALID_ARGUMENT') => {
  assert.throws(() => spec(config), { code, message: new RegExp(`^${field}: `) }, JSON.stringify(config));
};

test('containerSpecFrom() requires metadata and an image', () => {
  assert.throws(() => containerSpecFrom({}, sandboxSpec, facts), { message: /^config: / });
  refused({ metadata: {} }, 'metadata.name');
  refused({ image: {} }, 'image.image');
  assert.equal(spec({}).image.requested, 'sha256:1111');
});

test('containerSpecFrom() takes env values as bytes, and its errors contain no value', () => {
  const value = Buffer.from([0xff, 0xfe]);
  assert.deepEqual(spec({ envs: [{ key: 'A', value }, { key: 'EMPTY' }] }).env, [
    { name: 'A', value },
    { name: 'EMPTY', value: Buffer.alloc(0) },
  ]);
  for (const key of ['', 'A=B', 'A\0']) refused({ envs: [{ key, value }] }, 'envs');
  assert.throws(
    () => spec({ envs: [{ key: 'A', value: Buffer.from('secret\0') }] }),
    (error: Error) => !error.message.includes('secret'),
  );
});

test('containerSpecFrom() does not keep the bytes of the whole request in memory', () => {
  const request = Buffer.alloc(1_000_000, 'r');
  const [first, second] = spec({
    envs: [
      { key: 'A', value: request.subarray(10, 13) },
      { key: 'B', value: request.subarray(20, 25) },
    ],
  }).env;
  assert.deepEqual([first?.value.toString(), second?.value.toString()], ['rrr', 'rrrrr']);
  assert.deepEqual([first?.value.buffer.byteLength, second?.value.buffer.byteLength], [8, 8]);
});

test('containerSpecFrom() refuses NUL in the command, and a relative working directory', () => {
  refused({ command: ['a\0b'] }, 'command');
  refused({ args: ['a\0b'] }, 'args');
  refused({ working_dir: 'tmp' }, 'working_dir');
});

test("containerSpecFrom() requires the log to be below the sandbox's log directory", () => {
  assert.equal(spec({ log_path: 'main/0.log' }).logPath, '/logs/web/main/0.log');
  assert.equal('logPath' in spec({}), false);
  assert.equal('logPath' in spec({ log_path: 'main/0.log' }, { ...sandboxSpec, logDirectory: '' }), false);
  for (const path of ['../x.log', 'main/../../x.log', '/etc/passwd', '.', 'main/..', 'main/', 'a\0b', `main/${'x'.repeat(256)}`])
    refused({ log_path: path }, 'log_path');
  assert.equal(spec({ log_path: 'x'.repeat(255) }).logPath, `/logs/web/${'x'.repeat(255)}`);
  assert.equal(spec({ log_path: '..main.log' }).logPath, '/logs/web/..main.log');
});

test('the engine knows every stop signal of the contract', () => {
  const signals = readContract('runtime-v1.proto').enums.find(({ name }) => name === 'Signal');
  const names = Object.keys(signals?.values ?? {}) as Signal[];
  const numbers = names.slice(1).map((name) => parseSignal(spec({ stop_signal: name }).stopSignal ?? ''));
  assert.equal(numbers.length, 65);
  assert.equal(spec({ stop_signal: 'SIGNAL_SIGRTMINPLUS3' }).stopSignal, 'SIGRTMIN+3');
  assert.equal(parseSignal(spec({ stop_signal: 'SIGNAL_SIGRTMAXMINUS2' }).stopSignal ?? ''), 62);
  assert.equal('stopSignal' in spec({ stop_signal: 'SIGNAL_RUNTIME_DEFAULT' }), false);
  refused({ stop_signal: 99 as unknown as Signal }, 'stop_signal');
});

test('deviceNames() returns the field first, then the CDI annotations sorted by key', () => {
  const annotations = { 'cdi.k8s.io/b': 'v.com/c=2,v.com/c=3', 'cdi.k8s.io/a': 'v.com/c=1', 'cdi.k8s.io': 'v.com/c=4', other: 'v.com/c=5' };
  assert.deepEqual(deviceNames({ CDI_devices: [{ name: 'v.com/c=0' }, {}], annotations }), ['v.com/c=0', '', 'v.com/c=1', 'v.com/c=2', 'v.com/c=3']);
  assert.deepEqual(deviceNames({}), []);
});
