import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerSpec, containerView, sandboxView } from '../../../test/support/cri-fakes.ts';
import type { Mount } from '../state/spec.ts';
import { type Checkpointed, checkpointDocuments } from './checkpoint-documents.ts';

const mount: Mount = {
  containerPath: '/data/',
  hostPath: '/var/data',
  isReadonly: true,
  isRecursiveReadonly: false,
  propagation: 'host-to-container',
  wantsSelinuxRelabel: false,
  options: ['noexec'],
};
const cniResult = {
  interfaces: [
    { name: 'cni0', mac: '02:00' },
    { name: 'eth0', mac: '0a:58', sandbox: '/run/netns/x' },
  ],
  ips: [{ address: '10.1.0.2/24', gateway: '10.1.0.1', interface: 1 }],
};
const capabilities = { bounding: 0b1n, effective: 0b1n, permitted: 0b1n, inheritable: 0n, ambient: 0n };
const checkpointed: Checkpointed = {
  container: containerView(
    'c1',
    { spec: { ...containerSpec, mounts: [mount], annotations: { hash: 'f00' } } },
    { resources: { memoryLimitBytes: 64, cpuShares: 2 } },
  ),
  sandbox: sandboxView('s1', {}, { network: { ips: ['10.1.0.2', 'fd00::2'], cniResult } }),
  process: {
    argv: ['sleep', '1'],
    env: [Buffer.from('A=ä')],
    workingDir: '/',
    credentials: { uid: 5, gid: 6, groups: [7], capabilities, noNewPrivs: true, seccomp: null, rlimits: [{ name: 'NOFILE', soft: 1n, hard: 2n }] },
    oomScoreAdj: 100,
  },
  sources: new Map([['/var/data', { isDirectory: true, permissions: 0o755 }]]),
  atNs: '1795246699000000001',
};
const documents = checkpointDocuments(checkpointed);
const read = (name: string, from = documents) => JSON.parse(from[name] ?? 'null');

test('config.dump identifies the container and its image', () => {
  assert.deepEqual(read('config.dump'), {
    id: 'c1',
    name: 'k8s_main_web_default_u1_0',
    rootfsImage: 'busybox',
    rootfsImageRef: '1111',
    rootfsImageName: 'docker.io/library/busybox:latest',
    runtime: 'berth',
    createdTime: '2026-11-21T07:38:12.080405238Z',
    checkpointedTime: '2026-11-21T07:38:19.000000001Z',
    restoredTime: '0001-01-01T00:00:00Z',
    restored: false,
  });
});

test('spec.dump is the configuration of the OCI runtime specification', () => {
  const { process, mounts, linux, hostname } = read('spec.dump');
  assert.deepEqual(process, {
    terminal: false,
    user: { uid: 5, gid: 6, additionalGids: [7] },
    args: ['sleep', '1'],
    env: ['A=ä'],
    cwd: '/',
    capabilities: { bounding: ['CAP_CHOWN'], effective: ['CAP_CHOWN'], permitted: ['CAP_CHOWN'], inheritable: [], ambient: [] },
    rlimits: [{ type: 'RLIMIT_NOFILE', soft: 1, hard: 2 }],
    noNewPrivileges: true,
    oomScoreAdj: 100,
  });
  assert.equal(hostname, 'web');
  assert.deepEqual(mounts.at(-1), { destination: '/data/', type: 'bind', source: '/var/data', options: ['rbind', 'rslave', 'ro', 'noexec'] });
  assert.deepEqual(linux.resources, { memory: { limit: 64 }, cpu: { shares: 2 } });
  assert.deepEqual(
    linux.namespaces.map(({ type }: { type: string }) => type),
    ['mount', 'cgroup', 'pid', 'network', 'uts', 'ipc'],
  );
});

test('spec.dump has the annotations that CRI-O and containerd read', () => {
  const { annotations } = read('spec.dump');
  assert.equal(annotations['io.container.manager'], 'cri-o');
  assert.equal(annotations['io.kubernetes.cri-o.Metadata'], '{"name":"main","attempt":0}');
  assert.equal(annotations['io.kubernetes.cri-o.Annotations'], '{"hash":"f00"}');
  assert.equal(annotations['io.kubernetes.cri-o.IP.1'], 'fd00::2');
  assert.equal(annotations['io.kubernetes.cri.sandbox-name'], 'web');
  assert.equal(annotations['io.kubernetes.pod.uid'], 'u1');
});

test('bind.mounts describes the source of each volume, network.status the interfaces of the pod', () => {
  assert.deepEqual(read('bind.mounts'), [{ source: '/var/data', destination: '/data/', file_type: 'directory', permissions: 0o755 }]);
  const eth0 = { subnets: [{ ipnet: '10.1.0.2/24', gateway: '10.1.0.1' }], mac_address: '0a:58' };
  assert.deepEqual(read('network.status'), { pod: { interfaces: { eth0 } } });
  const bare = checkpointDocuments({
    ...checkpointed,
    sandbox: sandboxView('s1', {}, { network: { ips: ['10.1.0.2'], cniResult: null } }),
    sources: new Map(),
  });
  assert.equal(bare['network.status'], undefined);
  assert.deepEqual(read('bind.mounts', bare), []);
});
