import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PodSandboxConfig } from '../wire/messages.ts';
import { sandboxSpecFrom } from './sandbox-from-request.ts';

const facts = { canMountRecursivelyReadonly: true, hasAppArmor: false, hasSelinux: false };
const metadata = { name: 'web', namespace: 'default', uid: 'u1' };
const spec = (config: PodSandboxConfig, handler?: string) => sandboxSpecFrom({ config: { metadata, ...config }, runtime_handler: handler }, facts);

test('sandboxSpecFrom() requires only metadata', () => {
  assert.deepEqual(spec({}), {
    metadata: { ...metadata, attempt: 0 },
    hostname: '',
    logDirectory: '',
    portMappings: [],
    labels: {},
    annotations: {},
    cgroupParent: '',
    sysctls: {},
    namespaces: { network: 'pod', ipc: 'pod', pid: 'pod' },
    isPrivileged: false,
    runtimeHandler: '',
  });
});

test('sandboxSpecFrom() refuses a request without config or metadata, or with invalid metadata', () => {
  assert.throws(() => sandboxSpecFrom({}, facts), { code: 'INVALID_ARGUMENT', message: /^config: / });
  assert.throws(() => sandboxSpecFrom({ config: {} }, facts), { message: /^config.metadata: / });
  for (const field of ['name', 'namespace', 'uid']) {
    for (const wrong of ['', 'a;b', 'a\nb', 'a\0b']) {
      const pattern = { code: 'INVALID_ARGUMENT', message: new RegExp(`^metadata.${field}: `) };
      assert.throws(() => spec({ metadata: { ...metadata, [field]: wrong } }), pattern, JSON.stringify(wrong));
    }
  }
});

test('sandboxSpecFrom() accepts only the handlers "" and berth', () => {
  assert.equal(spec({}, 'berth').runtimeHandler, 'berth');
  for (const handler of ['runc', 'Berth', 'constructor'])
    assert.throws(() => spec({}, handler), { code: 'INVALID_ARGUMENT', message: /^runtime_handler: / });
});

test('sandboxSpecFrom() accepts valid host names of up to 64 bytes', () => {
  for (const good of ['web', 'web-0.svc.example', 'A_b', '9', 'x'.repeat(64)]) assert.equal(spec({ hostname: good }).hostname, good);
  for (const wrong of ['x'.repeat(65), '-web', '.web', 'we b', 'a/b', 'ä', 'a\n'])
    assert.throws(() => spec({ hostname: wrong }), { message: /^hostname: / }, wrong);
});

test('sandboxSpecFrom() distinguishes absent and empty dns_config, and refuses line breaks in it', () => {
  assert.equal('dns' in spec({}), false);
  assert.deepEqual(spec({ dns_config: {} }).dns, { servers: [], searches: [], options: [] });
  for (const field of ['servers', 'searches', 'options']) {
    assert.throws(() => spec({ dns_config: { [field]: ['ok', 'x\nnameserver 6.6.6.6'] } }), {
      code: 'INVALID_ARGUMENT',
      message: new RegExp(`^dns_config.${field}: `),
    });
  }
});

test('sandboxSpecFrom() accepts ports 1 to 65535, host port 0 for none, and IPv4 and IPv6 addresses', () => {
  const port = (mapping: object) => spec({ port_mappings: [mapping] }).portMappings[0];
  assert.deepEqual(port({ container_port: 80 }), { protocol: 'tcp', containerPort: 80, hostPort: 0, hostIp: '' });
  assert.deepEqual(port({ protocol: 'SCTP', container_port: 65535, host_port: 65535, host_ip: 'fd00::1' }), {
    protocol: 'sctp',
    containerPort: 65535,
    hostPort: 65535,
    hostIp: 'fd00::1',
  });
  assert.equal(port({ protocol: 'UDP', container_port: 1, host_ip: '10.0.0.1' })?.protocol, 'udp');
  const wrong = [{}, { container_port: -1 }, { container_port: 65536 }, { host_port: -1 }, { host_port: 65536 }, { protocol: 7 }];
  const wrongIps = ['10.0.0', '256.0.0.1', 'fd00::g', 'host', '::1]/', '1.2.3.4\n'];
  for (const mapping of [
    ...wrong.slice(1).map((part) => ({ container_port: 80, ...part })),
    {},
    ...wrongIps.map((host_ip) => ({ container_port: 80, host_ip })),
  ]) {
    assert.throws(() => port(mapping), { code: 'INVALID_ARGUMENT', message: /^port_mappings: / }, JSON.stringify(mapping));
  }
});

test('sandboxSpecFrom() refuses a cgroup parent outside the hierarchy, and a relative log directory', () => {
  const parent = (cgroup_parent: string) => spec({ linux: { cgroup_parent } }).cgroupParent;
  assert.equal(parent('/kubepods/podu1'), '/kubepods/podu1');
  assert.throws(() => parent('/kubepods/../../etc'), { message: /must not contain "\.\."/ });
  assert.throws(() => spec({ log_directory: 'logs' }), { message: /^log_directory: / });
});

test('sandboxSpecFrom() refuses run_as_group without run_as_user', () => {
  const withUser = (security_context: object) => spec({ linux: { security_context } });
  assert.throws(() => withUser({ run_as_group: { value: '1' } }), { code: 'INVALID_ARGUMENT', message: /^run_as_group: / });
  withUser({ run_as_group: { value: '1' }, run_as_user: {} });
});
