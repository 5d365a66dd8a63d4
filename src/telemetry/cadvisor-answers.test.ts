import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ContainerView, SandboxView } from '../engine/state/records.ts';
import { answerCadvisor } from './cadvisor-answers.ts';

const [podId, id, otherId] = ['a', 'b', 'c'].map((digit) => digit.repeat(64)) as [string, string, string];
const labels = { 'io.kubernetes.pod.name': 'web' };
const pod = (network: string, status = {}): SandboxView =>
  ({
    record: { id: podId, createdAtNs: '5', spec: { namespaces: { network }, labels, annotations: {} } },
    status: { readyAtNs: '1', network: { ips: ['10.0.0.2'] }, ...status },
  }) as unknown as SandboxView;
const member = (containerId: string, status: object): ContainerView =>
  ({
    record: {
      id: containerId,
      sandboxId: podId,
      createdAtNs: '7',
      image: { name: 'nginx:1' },
      spec: { labels: { ...labels, c: 'x' }, annotations: { a: '1' } },
    },
    status: { readyAtNs: '1', ...status },
  }) as unknown as ContainerView;
const running = { startedAtNs: '2', process: { pid: 42, startTime: '1' } };
const ended = { startedAtNs: '2', finishedAtNs: '3', process: { pid: 41, startTime: '1' } };

function answer(path: string, sandbox: SandboxView, containers: readonly ContainerView[]): Record<string, unknown> | null {
  const sources = {
    sandbox: (wanted: string) => (wanted === podId ? sandbox : undefined),
    container: (wanted: string) => containers.find(({ record }) => record.id === wanted),
    containers: () => containers,
    rootDir: '/var/lib/berth',
  };
  return answerCadvisor(sources, path) as Record<string, unknown> | null;
}

test('a container is answered with name, image, labels and pid, and without paths to measure', () => {
  assert.deepEqual(answer(`/containers/${id}`, pod('pod'), [member(id, running)]), {
    name: id,
    pid: 42,
    image: 'nginx:1',
    created_time: 7,
    labels: { ...labels, c: 'x' },
    annotations: { a: '1' },
    sandbox: podId,
    root: '',
    log_path: '',
  });
  assert.equal(answer(`/containers/${id}`, pod('pod'), [member(id, ended)])?.['pid'], 0);
  assert.equal(answer(`/containers/${id}`, pod('pod'), [member(id, {})])?.['pid'], 0, 'created only');
  assert.deepEqual(answer('/info', pod('pod'), []), { storage_driver: 'berth', storage_root: '/var/lib/berth' });
});

test('a sandbox is answered as the container POD, with the pid of a process in its network namespace', () => {
  const found = answer(`/containers/${podId}`, pod('pod'), [member(id, ended), member(otherId, running)]);
  assert.deepEqual(
    [found?.['pid'], found?.['labels'], found?.['ip_addresses']],
    [42, { ...labels, 'io.kubernetes.container.name': 'POD' }, ['10.0.0.2']],
  );
  const pidOf = (sandbox: SandboxView, ...containers: ContainerView[]) => answer(`/containers/${podId}`, sandbox, containers)?.['pid'];
  assert.equal(pidOf(pod('pod', { reaper: { pid: 9, startTime: '1' } })), 9);
  assert.equal(pidOf(pod('pod')), 0);
  assert.equal(pidOf(pod('node'), member(id, running)), 0, 'host network');
  assert.equal(pidOf(pod('pod', { stoppedAtNs: '9' }), member(id, running)), 0);
});

test('all other paths are answered with null', () => {
  for (const path of [
    '/',
    '/info/',
    '/config',
    '/containers/',
    `/containers/${otherId}`,
    `/containers/${id}/../x`,
    `/containers/${id.toUpperCase()}`,
  ])
    assert.equal(answer(path, pod('pod'), [member(id, running)]), null, path);
});
