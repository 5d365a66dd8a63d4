import assert from 'node:assert/strict';
import { linkSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type Client, status as Codes, credentials, loadPackageDefinition, type ServiceDefinition } from '@grpc/grpc-js';
import { readContract, redactedFields } from '../../scripts/generate-messages.ts';
import { containerView, fakeDeps, fakeLog, imageView, sandboxView } from '../../test/support/cri-fakes.ts';
import { loadContract } from './contract.ts';
import { listen } from './server.ts';
import { createItemBytes } from './to-response/item-bytes.ts';

const contract = loadContract();
const directory = mkdtempSync(join(tmpdir(), 'berth-cri-'));
after(() => rmSync(directory, { recursive: true }));

type Answer = { readonly code: number; readonly details: string; readonly messages: readonly Record<string, never>[] };

/** Starts a server on its own socket, and a client. Both are closed at the end of the test. */
async function serve(t: { after: (end: () => Promise<void>) => void }, name: string, world: Parameters<typeof fakeDeps>[0] = {}) {
  const path = join(directory, `${name}.sock`);
  const [deps, log] = [fakeDeps(world), fakeLog()];
  const server = await listen(contract, path, { ...deps, items: createItemBytes(contract.encoders), log });
  const clients = [contract.runtime, contract.image].map((service) => clientOf(service, path));
  t.after(async () => {
    for (const client of clients) client.close();
    await server.close(1000);
  });
  const call = (rpc: string, request: object = {}) => callOnce(rpc in contract.runtime ? clients[0] : clients[1], rpc, request);
  return { path, deps, log, call };
}

/** Accepts messages up to 16 MiB, like the kubelet. */
function clientOf(service: ServiceDefinition, path: string): Client {
  const { Service } = loadPackageDefinition({ Service: service }) as unknown as {
    Service: new (target: string, creds: unknown, options: object) => Client;
  };
  return new Service(`unix://${path}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': 16 * 1024 * 1024 });
}

function callOnce(client: Client | undefined, rpc: string, request: object): Promise<Answer> {
  const method = { ...contract.runtime, ...contract.image }[rpc];
  assert.ok(client && method);
  const messages: Record<string, never>[] = [];
  return new Promise((resolve) => {
    const stream = client.makeServerStreamRequest(method.path, method.requestSerialize, method.responseDeserialize, request);
    stream.on('data', (message) => messages.push(message));
    stream.on('error', ({ code, details }: { code: number; details: string } & Error) => resolve({ code, details, messages }));
    stream.on('end', () => resolve({ code: Codes.OK, details: '', messages }));
  });
}

const config = { metadata: { name: 'web', namespace: 'default', uid: 'u1' } };
const container = { metadata: { name: 'main' }, image: { image: 'sha256:1111' } };

/** Every RPC with a valid request, and a field that the response must have. */
const served: Readonly<Record<string, readonly [request: object, field?: string]>> = {
  Version: [{}, 'runtime_api_version'],
  Status: [{ verbose: true }, 'status'],
  RuntimeConfig: [{}, 'linux'],
  UpdateRuntimeConfig: [{ runtime_config: { network_config: { pod_cidr: '10.1.0.0/24' } } }],
  RunPodSandbox: [{ config }, 'pod_sandbox_id'],
  StopPodSandbox: [{ pod_sandbox_id: 's1' }],
  RemovePodSandbox: [{ pod_sandbox_id: 's1' }],
  PodSandboxStatus: [{ pod_sandbox_id: 's1' }, 'status'],
  ListPodSandbox: [{}, 'items'],
  StreamPodSandboxes: [{}, 'pod_sandboxes'],
  CreateContainer: [{ pod_sandbox_id: 's1', config: container }, 'container_id'],
  StartContainer: [{ container_id: 'c1' }],
  StopContainer: [{ container_id: 'c1', timeout: '2' }],
  RemoveContainer: [{ container_id: 'c1' }],
  ListContainers: [{}, 'containers'],
  StreamContainers: [{}, 'containers'],
  ContainerStatus: [{ container_id: 'c1' }, 'status'],
  UpdateContainerResources: [{ container_id: 'c1', linux: { cpu_shares: '51' } }],
  UpdatePodSandboxResources: [{ pod_sandbox_id: 's1', overhead: {}, resources: { cpu_shares: '51' } }],
  ReopenContainerLog: [{ container_id: 'c1' }],
  ContainerStats: [{ container_id: 'c1' }, 'stats'],
  ListContainerStats: [{}, 'stats'],
  StreamContainerStats: [{}, 'container_stats'],
  PodSandboxStats: [{ pod_sandbox_id: 's1' }, 'stats'],
  ListPodSandboxStats: [{}, 'stats'],
  StreamPodSandboxStats: [{}, 'pod_sandbox_stats'],
  ListMetricDescriptors: [{}, 'descriptors'],
  ListPodSandboxMetrics: [{}, 'pod_metrics'],
  StreamPodSandboxMetrics: [{}, 'pod_sandbox_metrics'],
  CheckpointContainer: [{ container_id: 'c1', location: '/var/lib/kubelet/checkpoints/c1.tar', timeout: '10' }],
  GetContainerEvents: [{}],
  Exec: [{ container_id: 'c1', cmd: ['true'], stdout: true }, 'url'],
  Attach: [{ container_id: 'c1', stdout: true }, 'url'],
  PortForward: [{ pod_sandbox_id: 's1', port: [80] }, 'url'],
  ExecSync: [{ container_id: 'c1', cmd: ['true'] }, 'exit_code'],
  ListImages: [{}, 'images'],
  StreamImages: [{}, 'images'],
  ImageStatus: [{ image: { image: 'sha256:1111' } }, 'image'],
  PullImage: [{ image: { image: 'busybox' } }, 'image_ref'],
  RemoveImage: [{ image: { image: 'busybox' } }],
  ImageFsInfo: [{}, 'image_filesystems'],
};

test('every RPC of both services responds over the socket, or is UNIMPLEMENTED with a reason', async (t) => {
  const { call } = await serve(t, 'every', { sandboxes: [sandboxView('s1')], containers: [containerView('c1', {}, { startedAtNs: '5' })] });
  for (const rpc of [...Object.keys(contract.runtime), ...Object.keys(contract.image)]) {
    const [request = {}, field] = served[rpc] ?? [];
    const { code, details, messages } = await call(rpc, request);
    if (served[rpc] === undefined) {
      assert.equal(code, Codes.UNIMPLEMENTED, rpc);
      assert.match(details, new RegExp(`^${rpc}: .{20}`), rpc);
    } else {
      assert.equal(code, Codes.OK, `${rpc}: ${details}`);
      assert.ok(field === undefined || field in (messages[0] ?? {}), `${rpc} answers without ${field}`);
    }
  }
});

test('an unknown object is NOT_FOUND for a status, an empty response for an image or a list', async (t) => {
  const { call } = await serve(t, 'absent', { images: [] });
  assert.equal((await call('ContainerStatus', { container_id: 'c9' })).code, Codes.NOT_FOUND);
  assert.equal((await call('PodSandboxStatus', { pod_sandbox_id: 's9' })).code, Codes.NOT_FOUND);
  const image = await call('ImageStatus', { image: { image: 'nothing' } });
  assert.deepEqual([image.code, image.messages[0]?.['image']], [Codes.OK, undefined]);
  assert.deepEqual((await call('ListContainers', { filter: { id: 'c9' } })).messages, [{ containers: [] }]);
  assert.deepEqual((await call('StreamContainers', {})).messages, []);
});

test('a call that changes the node is logged once, a poll only at debug level, with no field of the request but its id', async (t) => {
  const { call, log } = await serve(t, 'log');
  await call('Version');
  const secrets = redactedFields(readContract('runtime-v1.proto')).map((field) => [field.replace('AuthConfig.', ''), 'hunter2']);
  await call('PullImage', { image: { image: 'busybox' }, auth: Object.fromEntries(secrets) });
  await call('StopContainer', {});
  assert.deepEqual(
    log.lines.map(({ level, fields }) => [level, fields['rpc'], fields['code'], fields['id']]),
    [
      ['debug', 'Version', 'OK', undefined],
      ['info', 'PullImage', 'OK', 'busybox'],
      ['warn', 'StopContainer', 'INVALID_ARGUMENT', undefined],
    ],
  );
  assert.doesNotMatch(JSON.stringify(log.lines), /hunter2/);
});

test('requests reach the engine as specs, with timeouts in milliseconds', async (t) => {
  const { call, deps } = await serve(t, 'specs', { sandboxes: [sandboxView('s1')], images: [imageView] });
  await call('StopContainer', { container_id: 'c1', timeout: '-3' });
  await call('StopContainer', { container_id: 'c1', timeout: '9223372036854775807' });
  await call('ExecSync', { container_id: 'c1', cmd: ['cat'], timeout: '3' });
  await call('CreateContainer', { pod_sandbox_id: 's', config: container });
  const [first, second, exec, create] = deps.calls;
  assert.deepEqual(first?.args, ['c1', 0]);
  assert.deepEqual(second?.args, ['c1', 2 ** 31 - 1]);
  assert.deepEqual(exec?.args.slice(0, 3), ['c1', ['cat'], 3000]);
  const [sandboxId, , image] = create?.args ?? [];
  assert.equal(sandboxId, 's1');
  assert.equal((image as { ref: string }).ref, 'docker.io/library/busybox@sha256:2222');
});

test('requests and responses may be larger than the 4 MiB of grpc-js', async (t) => {
  const { call, deps } = await serve(t, 'large');
  const [word, output] = ['x'.repeat(9 * 1024 * 1024), Buffer.alloc(6 * 1024 * 1024)];
  Object.assign(deps.engine, {
    execSync: async (_: string, argv: readonly string[]) => ({ stdout: output, stderr: output, exitCode: argv[0] === word ? 0 : 1 }),
  });
  const { code, messages } = await call('ExecSync', { container_id: 'c1', cmd: [word] });
  const { stdout, stderr, exit_code } = messages[0] as unknown as { stdout: Buffer; stderr: Buffer; exit_code?: number };
  assert.deepEqual([code, exit_code, stdout.length, stderr.length], [Codes.OK, 0, output.length, output.length]);
});

test('listen() replaces the socket of a dead daemon, with mode 660, and nothing else', async (t) => {
  const path = join(directory, 'stale.sock');
  const { path: live } = await serve(t, 'live');
  const deps = { ...fakeDeps(), items: createItemBytes(contract.encoders), log: fakeLog() };
  await assert.rejects(listen(contract, live, deps), { code: 'FAILED_PRECONDITION', message: /another daemon is listening/ });
  await leaveStaleSocket(path);
  const server = await listen(contract, path, deps);
  assert.equal(statSync(path).mode & 0o777, 0o660);
  await server.close(1000);
  writeFileSync(path, 'precious');
  await assert.rejects(listen(contract, path, deps), { code: 'FAILED_PRECONDITION', message: /not a socket/ });
  assert.equal(statSync(path).size, 8);
});

test('close() waits for a call in flight, and accepts no more', async () => {
  const path = join(directory, 'drain.sock');
  const { promise: gate, resolve: open } = Promise.withResolvers<void>();
  const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
  const fakes = fakeDeps();
  const stopContainer = () => {
    enter();
    return gate;
  };
  const engine = { ...fakes.engine, stopContainer };
  const server = await listen(contract, path, { ...fakes, engine, items: createItemBytes(contract.encoders), log: fakeLog() });
  const client = clientOf(contract.runtime, path);
  const answer = callOnce(client, 'StopContainer', { container_id: 'c1' });
  await entered;
  const closed = server.close(60_000);
  open();
  assert.equal((await answer).code, Codes.OK);
  await closed;
  assert.equal((await callOnce(client, 'Version', {})).code, Codes.UNAVAILABLE);
  client.close();
});

/** Creates a stale socket. Node removes the socket file with the server, so it is linked to another name first. */
async function leaveStaleSocket(path: string): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(`${path}.live`, resolve));
  linkSync(`${path}.live`, path);
  await new Promise<void>((resolve) => server.close(() => resolve()));
}
