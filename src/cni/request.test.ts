import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NetworkAttachment } from '../engine/state/spec.ts';
import { type NetworkList, type PluginConfig, parseList } from './list.ts';
import { planAttachment, planConfig, planEnvironment } from './request.ts';

const request: NetworkAttachment = {
  sandboxId: 'abc123',
  metadata: { name: 'pod', namespace: 'ns', uid: 'u-1', attempt: 0 },
  netnsPath: '/run/netns/x',
  portMappings: [],
  annotations: {},
  cgroupParent: '',
};

function listOf(...plugins: readonly object[]): NetworkList {
  return parseList(JSON.stringify({ cniVersion: '1.0.0', name: 'net', plugins }), true);
}

function withCapability(name: string): NetworkList {
  return listOf({ type: 'p', capabilities: { [name]: true } });
}

const first = (list: NetworkList) => list.plugins[0] as PluginConfig;

function capability(name: string, overrides: Partial<NetworkAttachment>): unknown {
  return planAttachment(withCapability(name), { ...request, ...overrides }).capabilityArgs[name];
}

function bandwidth(annotations: Record<string, string>): unknown {
  return capability('bandwidth', { annotations });
}

test('planEnvironment() sets the variables of the specification and the CNI_ARGS that Kubernetes plugins expect', () => {
  const attachment = planAttachment(listOf({ type: 'p' }), request);
  assert.deepEqual(planEnvironment(['PATH=/bin', 'CNI_COMMAND=evil'], 'ADD', ['/opt/cni/bin', '/usr/lib/cni'], attachment), [
    'PATH=/bin',
    'CNI_COMMAND=ADD',
    'CNI_PATH=/opt/cni/bin:/usr/lib/cni',
    'CNI_CONTAINERID=abc123',
    'CNI_NETNS=/run/netns/x',
    'CNI_IFNAME=eth0',
    'CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_INFRA_CONTAINER_ID=abc123;K8S_POD_UID=u-1',
  ]);
});

test('planAttachment() refuses names that would inject arguments into CNI_ARGS', () => {
  for (const name of ['a;IP=10.0.0.1', 'a=b']) {
    assert.throws(() => planAttachment(listOf({ type: 'p' }), { ...request, metadata: { ...request.metadata, name } }), { code: 'INVALID_ARGUMENT' });
  }
  assert.throws(() => planAttachment(listOf({ type: 'p' }), { ...request, sandboxId: 'a-b' }), { code: 'INVALID_ARGUMENT' });
});

test('planConfig() keeps unknown fields, inserts name and version, and drops reserved keys', () => {
  const list = listOf({
    type: 'p',
    mtu: 9,
    args: { a: 1 },
    name: 'old',
    cniVersion: '0.1.0',
    prevResult: {},
    capabilities: { dns: true },
    'cni.dev/x': 1,
  });
  assert.deepEqual(JSON.parse(planConfig(list, first(list), {})), { type: 'p', mtu: 9, args: { a: 1 }, name: 'net', cniVersion: '1.0.0' });
});

test('planConfig() passes to each plugin only the capabilities that it declares true', () => {
  const list = listOf({ type: 'a', capabilities: { portMappings: true } }, { type: 'b', capabilities: { portMappings: false, dns: true } });
  const attachment = planAttachment(list, {
    ...request,
    portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' }],
    dns: { servers: ['1.1.1.1'], searches: ['s'], options: ['ndots:5'] },
    cgroupParent: '/kubepods/x',
  });
  const [a, b] = list.plugins.map((plugin) => JSON.parse(planConfig(list, plugin, { attachment, prevResult: { ips: [] } })));
  assert.deepEqual(a.runtimeConfig, { portMappings: [{ hostPort: 8080, containerPort: 80, protocol: 'tcp' }] });
  assert.deepEqual(b.runtimeConfig, { dns: { servers: ['1.1.1.1'], searches: ['s'], options: ['ndots:5'] } });
  assert.deepEqual(a.prevResult, { ips: [] });
  assert.equal(attachment.capabilityArgs.cgroupPath, undefined);
});

test('planAttachment() maps only ports with a host port, with their host address', () => {
  const portMappings = [
    { protocol: 'udp', containerPort: 53, hostPort: 0, hostIp: '' },
    { protocol: 'sctp', containerPort: 5, hostPort: 6, hostIp: '127.0.0.1' },
  ] as const;
  assert.deepEqual(capability('portMappings', { portMappings }), [{ hostPort: 6, containerPort: 5, protocol: 'sctp', hostIP: '127.0.0.1' }]);
  assert.equal(capability('portMappings', { portMappings: portMappings.slice(0, 1) }), undefined);
});

test('planAttachment() passes the cgroup parent and the annotations to networks that declare the capability', () => {
  assert.equal(capability('cgroupPath', { cgroupParent: '/kubepods/x' }), '/kubepods/x');
  assert.deepEqual(capability('io.kubernetes.cri.pod-annotations', { annotations: { a: 'b' } }), { a: 'b' });
  assert.equal(capability('ipRanges', {}), undefined);
});

test('planAttachment() reads bandwidth annotations as quantities in bits per second', () => {
  assert.deepEqual(bandwidth({ 'kubernetes.io/ingress-bandwidth': '10M' }), { ingressRate: 10_000_000, ingressBurst: 1_000_000 });
  assert.deepEqual(bandwidth({ 'kubernetes.io/ingress-bandwidth': '1k', 'kubernetes.io/egress-bandwidth': '1P' }), {
    ingressRate: 1000,
    ingressBurst: 131_072,
    egressRate: 1e15,
    egressBurst: 4_294_967_295,
  });
  assert.equal(bandwidth({}), undefined);
});

test('a burst holds a jumbo frame at every rate, and never overflows the clock of tbf, 2^32 ticks of 64 ns', () => {
  for (const rate of [1000, 8000, 131_072, 1e6, 16e6, 1e9, 1e11, 1e15]) {
    const { ingressBurst } = bandwidth({ 'kubernetes.io/ingress-bandwidth': String(rate) }) as { ingressBurst: number };
    assert.ok(Number.isInteger(ingressBurst) && ingressBurst / 8 > 9000 + 18 && ingressBurst < 2 ** 32, `${rate}: ${ingressBurst}`);
    assert.ok((ingressBurst / rate) * (1e9 / 64) < 2 ** 32, `${rate}: ${ingressBurst}`);
  }
});

test('planAttachment() refuses a bandwidth out of bounds and names the annotation', () => {
  for (const rate of ['999', '1000000000000001', 'fast', '-1M', '']) {
    assert.throws(
      () => bandwidth({ 'kubernetes.io/egress-bandwidth': rate }),
      { code: 'INVALID_ARGUMENT', message: /kubernetes.io\/egress-bandwidth/ },
      rate,
    );
  }
});

test('planAttachment() ignores an invalid bandwidth annotation if no plugin declares the capability', () => {
  const attachment = planAttachment(listOf({ type: 'p' }), { ...request, annotations: { 'kubernetes.io/egress-bandwidth': 'fast' } });
  assert.deepEqual(attachment.capabilityArgs, {});
});
