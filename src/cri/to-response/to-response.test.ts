import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerSpec, containerView, imageView, sandboxSpec, sandboxView } from '../../../test/support/cri-fakes.ts';
import { container, containerStatus, image, podSandboxStatus } from './to-response.ts';

test('podSandboxStatus() returns the namespace modes: without them the kubelet would recreate the sandbox', () => {
  const spec = { ...sandboxSpec, namespaces: { network: 'node', ipc: 'node', pid: 'node' } } as const;
  assert.deepEqual(podSandboxStatus(sandboxView('s1', { spec })).linux, { namespaces: { options: { network: 'NODE', ipc: 'NODE', pid: 'NODE' } } });
});

test('podSandboxStatus() separates the primary address from the others, and has none after the stop', () => {
  assert.deepEqual(podSandboxStatus(sandboxView('s1')).network, { ip: '10.1.0.2', additional_ips: [{ ip: 'fd00::2' }] });
  const { network: _, ...status } = sandboxView('s1').status;
  const stopped = podSandboxStatus({ record: sandboxView('s1').record, status: { ...status, stoppedAtNs: '9' } });
  assert.deepEqual([stopped.state, stopped.network], ['SANDBOX_NOTREADY', { ip: '', additional_ips: [] }]);
});

test('containerStatus() derives the state, and returns times as strings with full precision', () => {
  const states = [
    {},
    { startedAtNs: '1795246692683946234' },
    { startedAtNs: '1795246692683946234', finishedAtNs: '1795246692914313164', exitCode: 137, reason: 'OOMKilled' },
  ];
  const statuses = states.map((status) => containerStatus(containerView('c1', {}, status)));
  assert.deepEqual(
    statuses.map(({ state }) => state),
    ['CONTAINER_CREATED', 'CONTAINER_RUNNING', 'CONTAINER_EXITED'],
  );
  const { finished_at, exit_code, reason, created_at } = statuses[2] ?? {};
  assert.deepEqual([finished_at, exit_code, reason, created_at], ['1795246692914313164', 137, 'OOMKilled', '1795246692080405238']);
});

test('containerStatus() returns labels unchanged, the groups of the process, and the name of the stop signal', () => {
  const identity = { uid: 1001, gid: 2002, additionalGids: [2002, 3003], home: '/' };
  const status = containerStatus(containerView('c1', { identity, stopSignal: 37 }));
  assert.deepEqual(status.labels, { app: 'web', tier: '' });
  assert.deepEqual(status.user, { linux: { uid: '1001', gid: '2002', supplemental_groups: ['2002', '3003'] } });
  assert.equal(status.stop_signal, 'SIGNAL_SIGRTMINPLUS3');
  assert.equal(containerStatus(containerView('c1', { stopSignal: 62 })).stop_signal, 'SIGNAL_SIGRTMAXMINUS2');
});

test('containerStatus() returns only the requested mounts', () => {
  const mount = {
    containerPath: '/data/',
    hostPath: '/srv',
    isReadonly: true,
    isRecursiveReadonly: true,
    propagation: 'private',
    wantsSelinuxRelabel: true,
    options: ['noexec'],
  } as const;
  assert.deepEqual(containerStatus(containerView('c1', { spec: { ...containerSpec, mounts: [mount] } })).mounts, [
    {
      container_path: '/data/',
      host_path: '/srv',
      readonly: true,
      recursive_read_only: true,
      propagation: 'PROPAGATION_PRIVATE',
      selinux_relabel: true,
      mount_options: ['noexec'],
    },
  ]);
});

test('containerStatus() returns the effective resources, not the requested ones', () => {
  const resources = {
    cpuShares: 51,
    cpuQuotaUs: -1,
    memoryLimitBytes: 100663296,
    hugepageLimits: [{ pageSize: '2MB', limitBytes: 0 }],
    unified: { 'memory.high': 'max' },
  };
  const { linux } = containerStatus(containerView('c1', {}, { resources })).resources ?? {};
  assert.deepEqual(JSON.parse(JSON.stringify(linux)), {
    cpu_shares: '51',
    cpu_quota: '-1',
    memory_limit_in_bytes: '100663296',
    hugepage_limits: [{ page_size: '2MB', limit: '0' }],
    unified: { 'memory.high': 'max' },
  });
});

test('list and status return the same name, reference and id of the image', () => {
  for (const message of [container(containerView('c1')), containerStatus(containerView('c1'))]) {
    assert.equal(message.image?.image, 'docker.io/library/busybox:latest');
    assert.equal(message.image_ref, 'docker.io/library/busybox@sha256:2222');
    assert.equal(message.image_id, 'sha256:1111');
  }
});

test('image() returns either the uid or the name in the first part of User', () => {
  const user = (text: string) => {
    const { uid, username } = image({ ...imageView, user: text });
    return [uid?.value, username];
  };
  assert.deepEqual(user(''), [undefined, undefined]);
  assert.deepEqual(user('1002'), ['1002', undefined]);
  assert.deepEqual(user('1003:2000'), ['1003', undefined]);
  assert.deepEqual(user('www-data:www-data'), [undefined, 'www-data']);
  assert.deepEqual(user('4294967294'), ['4294967294', undefined]);
  // In 64 bits these would be 0, -2^63 and -1.
  for (const text of ['18446744073709551616', '9223372036854775808', '4294967295', '9'.repeat(1000)]) assert.deepEqual(user(text), [undefined, text]);
});
