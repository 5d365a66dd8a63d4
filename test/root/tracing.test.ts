/**
 * Traces calls of a daemon and receives its spans: their parents and attributes, and the effect of an unavailable receiver.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { type CriClient, connectCri } from '../../scripts/cri-client.ts';
import { serveRegistry } from '../../scripts/mini-registry.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { startOtlpReceiver, treeOf } from '../support/otlp-receiver.ts';
import { type Runtime, startRuntime } from '../support/runtime.ts';

const secrets = { environment: 'value-of-an-environment-variable', password: 'password-of-a-pull', word: 'argument-of-an-exec' };

/** Headers of a kubelet: trace id, span id, and the sampled flag. */
const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
const kubeletSpan = '00f067aa0ba902b7';
const sampled = { traceparent: `00-${traceId}-${kubeletSpan}-01`, tracestate: 'vendor=value' };
const unsampled = { traceparent: '00-11111111111111111111111111111111-2222222222222222-00' };
const malformed = { traceparent: '00-not-a-trace-01' };

const metricsAddress = '127.0.0.1:19419';

before(() => {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', '/run']);
});

after(() => execFileSync('umount', ['/run']));

type Daemon = { readonly runtime: Runtime; readonly client: CriClient };

async function startDaemon(t: TestContext, endpoint: string, settings = ''): Promise<Daemon> {
  const workDir = mkdtempSync('/var/tmp/berth-tracing-');
  t.after(() => rmSync(workDir, { recursive: true, force: true }));
  const runtime = await startRuntime('berth', { workDir, settings: `tracing_endpoint = "${endpoint}"\n${settings}` });
  const client = connectCri(runtime.endpoint);
  t.after(() => client.close());
  mkdirSync(join(workDir, 'logs'));
  return { runtime, client };
}

/** Runs a pod with one container, from the image pull to its removal. */
async function runPodLifecycle({ client, runtime }: Daemon, headers: Readonly<Record<string, string>>) {
  const registry = await serveRegistry(new Map([['berth/sample:1', await buildSampleImage()]]));
  const call = <Answer>(method: string, request: object) => client.call<Answer>(method, request as never, 60_000, headers);
  const image = `${registry.host}/berth/sample:1`;
  const sandbox = {
    metadata: { name: 'traced', namespace: 'test', uid: 'uid-of-traced', attempt: 0 },
    hostname: 'traced',
    log_directory: join(runtime.logFile, '../logs'),
    linux: {},
  };
  await call('PullImage', { image: { image }, auth: { username: 'kim', password: secrets.password }, sandbox_config: sandbox });
  registry.stop();
  const { pod_sandbox_id: sandboxId } = await call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const envs = [{ key: 'PASSWORD', value: Buffer.from(secrets.environment) }];
  const create = (name: string, command: readonly string[]) => {
    const config = { metadata: { name, attempt: 2 }, image: { image }, command, envs, log_path: `${name}.log`, linux: {} };
    return call<{ container_id: string }>('CreateContainer', { pod_sandbox_id: sandboxId, config, sandbox_config: sandbox });
  };
  const { container_id: containerId } = await create('main', ['sleep', '1000']);
  await call('StartContainer', { container_id: containerId });
  await call('ExecSync', { container_id: containerId, cmd: ['echo', secrets.word], timeout: '10' });
  const { container_id: failedId } = await create('broken', ['/no/such/program']);
  await assert.rejects(call('StartContainer', { container_id: failedId }), /no such file/);
  await call('RemovePodSandbox', { pod_sandbox_id: sandboxId });
  return { sandboxId, containerId, failedId, image };
}

test('a pod start is a trace below the caller’s span: all calls with their steps, plugin calls, layers and cgroups', async (t) => {
  const receiver = await startOtlpReceiver();
  t.after(receiver.stop);
  const daemon = await startDaemon(t, receiver.url);
  const ids = await runPodLifecycle(daemon, sampled);
  await daemon.runtime.stop();

  const { spans } = receiver;
  assert.deepEqual(new Set(spans.map((span) => span.traceId)), new Set([traceId]));
  assert.deepEqual(new Set(spans.map((span) => span.traceState)), new Set([sampled.tracestate]));
  const tree = treeOf(spans, kubeletSpan);
  assert.equal(tree.length, spans.length, "all spans are descendants of the caller's span");
  const names = tree.map(({ span, depth }) => `${'  '.repeat(depth)}${span.name.replace('runtime.v1.', '')}`);
  // The version of a plugin may have been requested before the first pod.
  const until = names.indexOf('RuntimeService/ExecSync');
  assert.deepEqual(
    names.slice(0, until).filter((name) => !name.includes('CNI VERSION')),
    [
      'ImageService/PullImage',
      '  pull.look',
      '  pull.resolve',
      '  pull.layer',
      '  pull.publish',
      'RuntimeService/RunPodSandbox',
      '  sandbox.files',
      '  sandbox.namespaces',
      '  sandbox.reaper',
      '    cgroup.create',
      '    cgroup.adopt',
      '  sandbox.network',
      '    CNI ADD bridge',
      '    CNI ADD portmap',
      'RuntimeService/CreateContainer',
      '  create.root',
      '  create.cgroup',
      '    cgroup.create',
      '  create.plan',
      'RuntimeService/StartContainer',
      '  start.root',
      '  start.plan',
      '  start.monitor',
      '    plan.parent',
      '    plan.clone',
      '    plan.child',
      '  cgroup.adopt',
    ],
  );
  const execs = names.slice(until + 1, names.indexOf('RuntimeService/CreateContainer', until));
  assert.deepEqual(execs, ['  exec.start', '    plan.parent', '    plan.clone', '    plan.child', '  exec.run']);
  for (const name of ['    CNI DEL portmap', '    CNI DEL bridge', '  cgroup.remove'])
    assert.ok(names.map((each) => each.trim()).includes(name.trim()), name);

  const byId = new Map(spans.map((span) => [span.spanId, span]));
  for (const span of spans) {
    const parent = byId.get(span.parentId);
    assert.ok(span.startNs <= span.endNs, span.name);
    assert.equal(span.kind, parent === undefined ? 2 : 1, span.name);
    if (parent) assert.ok(parent.startNs <= span.startNs && span.endNs <= parent.endNs, `${span.name} is within ${parent.name}`);
  }

  const find = (name: string) => spans.filter((span) => span.name.endsWith(name));
  const pod = { 'k8s.pod.name': 'traced', 'k8s.pod.uid': 'uid-of-traced', 'k8s.namespace.name': 'test', 'cri.sandbox.id': ids.sandboxId };
  const container = {
    'k8s.container.name': 'main',
    'k8s.container.restart_count': 2,
    'container.id': ids.containerId,
    'container.image.name': ids.image,
  };
  assert.partialDeepStrictEqual(find('/RunPodSandbox')[0]?.attributes, { ...pod, 'rpc.system.name': 'grpc', 'rpc.status_code': 'OK' });
  assert.partialDeepStrictEqual(find('/PullImage')[0]?.attributes, { 'k8s.pod.name': 'traced', 'container.image.name': ids.image });
  for (const name of ['/CreateContainer', '/StartContainer', '/ExecSync'])
    assert.partialDeepStrictEqual(find(name)[0]?.attributes, { ...pod, ...container });
  assert.partialDeepStrictEqual(find('CNI ADD bridge')[0]?.attributes, { 'cni.command': 'ADD', 'cni.plugin': 'bridge', 'cni.network': 'berth-test' });
  const layer = find('pull.layer')[0]?.attributes ?? {};
  assert.match(String(layer['layer.digest']), /^sha256:/);
  assert.ok(Number(layer['layer.bytes']) > 100_000 && Number(layer['layer.files_ms']) > 0);
  assert.partialDeepStrictEqual(spans[0]?.resource, { 'service.name': 'berth' });

  const [, failed] = find('/StartContainer');
  assert.equal(failed?.status.code, 2);
  assert.match(failed.status.message, /start container broken: .*no such file/);
  assert.partialDeepStrictEqual(failed.attributes, { 'rpc.status_code': 'FAILED_PRECONDITION', 'error.type': 'FAILED_PRECONDITION' });
  assert.equal(find('/CreateContainer')[0]?.status.code, 0);

  const sent = Buffer.concat(receiver.bodies).toString('latin1');
  for (const [kind, secret] of Object.entries(secrets)) assert.ok(!sent.includes(secret), `the spans contain the ${kind}`);
});

test('calls that the caller does not sample are not traced; without a parent, the sampling rate applies', async (t) => {
  const receiver = await startOtlpReceiver();
  t.after(receiver.stop);
  const rare = await startDaemon(t, receiver.url);
  for (const headers of [unsampled, {}, malformed]) await rare.client.call('Version', {}, 10_000, headers);
  await rare.client.call('Version', {}, 10_000, sampled);
  await rare.runtime.stop();
  assert.deepEqual(
    receiver.spans.map(({ name, parentId }) => [name, parentId]),
    [['runtime.v1.RuntimeService/Version', kubeletSpan]],
  );
  const all = await startDaemon(t, `${receiver.url}/`, 'tracing_sampling_rate_per_million = 1000000\n');
  for (const headers of [unsampled, {}, malformed]) await all.client.call('Version', {}, 10_000, headers);
  await all.runtime.stop();
  assert.deepEqual(
    receiver.spans.slice(1).map(({ parentId }) => parentId),
    ['', ''],
  );
});

/** An unavailable receiver: it accepts connections without responding, or refuses them. */
async function startSilentReceiver(t: TestContext): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => sockets.add(socket));
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

test('an unavailable receiver affects no call, is logged once, and does not block the exit of the daemon', async (t) => {
  for (const endpoint of [await startSilentReceiver(t), 'http://127.0.0.1:1']) {
    const daemon = await startDaemon(t, endpoint, `metrics = "${metricsAddress}"\n`);
    await runPodLifecycle(daemon, sampled);
    // More spans than the queue holds: calls until one is dropped. How many it takes depends on the speed of the machine.
    let dropped = 0;
    for (let calls = 0; dropped === 0 && calls < 50_000; calls += 5000) {
      for (let poll = 0; poll < 100; poll += 1)
        await Promise.all(Array.from({ length: 50 }, () => daemon.client.call('Version', {}, 10_000, sampled)));
      const text = await (await fetch(`http://${metricsAddress}/metrics`)).text();
      dropped = Number(/^berth_trace_spans_total\{result="dropped"\} (\d+)$/m.exec(text)?.[1] ?? 0);
    }
    assert.ok(dropped > 0, 'spans above the limit are dropped and counted');
    await daemon.runtime.stop();
    const lines = readFileSync(daemon.runtime.logFile, 'utf8').split('\n');
    assert.ok(lines.filter((line) => line.includes('failed to export spans')).length <= 1);
  }
});
