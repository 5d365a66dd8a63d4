/**
 * Test bed for fuzzing the CRI: a daemon that can write only to its own directories, a client that returns all responses and errors, and a check for
 * leftovers.
 *
 * Call enterIsolation() first.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { buildSampleImage } from '../../../scripts/sample-image.ts';
import { createWorkspace, type Daemon, findLeftovers, startDaemon, type Workspace } from '../../root/support/daemon.ts';
import { pullSample, runContainer, runPod } from '../../root/support/pods.ts';
import { cgroupDirectories } from '../../support/cgroups.ts';
import { loadCriTypes } from '../../support/cri-mutations.ts';

export type CallResult<Response = unknown> = {
  readonly rpc: string;
  /** Name of the gRPC code. */
  readonly code: string;
  readonly details: string;
  /** The response; for a stream, its first message. */
  readonly response?: Response | undefined;
};

export type SendOptions = { readonly deadlineMs?: number; readonly cancelAfterMs?: number };

export type CriBed = {
  readonly workspace: Workspace;
  readonly image: string;
  readonly daemon: () => Daemon;
  /** Sends a request. Never throws. @param request a message, or a Buffer with raw bytes. */
  readonly send: <Response = unknown>(rpc: string, request: object, options?: SendOptions) => Promise<CallResult<Response>>;
  /** Kills the daemon and starts a new one. */
  readonly restart: () => Promise<void>;
  /** Removes all pods and containers. */
  readonly removeAll: () => Promise<void>;
  /** Compares leftovers and the daemon's open files with those at the start. @throws AssertionError with the differences. */
  readonly assertClean: () => Promise<void>;
  readonly end: () => Promise<void>;
};

const { services } = loadCriTypes();
export const methods: Readonly<Record<string, (typeof services)[number][string]>> = Object.assign({}, ...services);

const deadlineMsDefault = 60_000;

/** Starts the daemon and runs one pod, so that resources that are created only once exist before the comparison. */
export async function openCriBed(): Promise<CriBed> {
  const workspace = createWorkspace();
  // Build the image now: its directory is read-only after protectMachine().
  await buildSampleImage();
  protectMachine(dirname(workspace.directory));
  let daemon = await startDaemon(workspace);
  let client = connect(workspace);
  const image = await pullSample(daemon.client);
  const { removeAll } = createRemoval(() => daemon);
  // Create what is shared by all pods: the bridge, iptables chains, and files that the daemon keeps open.
  const pod = await runPod(daemon.client, 'first', workspace.directory, {
    port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 18200 }],
  });
  await runContainer(daemon.client, pod, image, 'c', 'sleep 1000');
  await removeAll();
  await send(client, 'Version', {});
  const leftoversBefore = await findPodLeftovers(workspace, daemon);
  const files = openFiles(daemon.pid);
  const newFiles = (pid: number): string[] => {
    const known = [...files];
    return openFiles(pid).filter((file) => {
      const at = known.indexOf(file);
      if (at >= 0) known.splice(at, 1);
      return at < 0;
    });
  };
  /** Clients of killed daemons; they may have pending calls. */
  const oldClients: Client[] = [];
  return {
    workspace,
    image,
    daemon: () => daemon,
    send: (rpc, request, options) => send(client, rpc, request, options),
    restart: async () => {
      await daemon.end('SIGKILL');
      oldClients.push(client);
      daemon = await startDaemon(workspace);
      client = connect(workspace);
      await waitForReady(client);
    },
    removeAll,
    assertClean: async () => {
      assert.deepEqual(await findPodLeftovers(workspace, daemon), leftoversBefore);
      for (const each of oldClients.splice(0)) each.close();
      for (let waits = 0; waits < 100 && newFiles(daemon.pid).length > 0; waits += 1) await sleep(50);
      assert.deepEqual(newFiles(daemon.pid), []);
    },
    end: async () => {
      for (const each of [...oldClients, client]) each.close();
      assert.equal(await daemon.end('SIGTERM'), 0);
      await workspace.remove();
    },
  };
}

/** Remounts everything in this mount namespace read-only except `writable`, /proc, /sys and /run, whatever paths a request contains. */
function protectMachine(writable: string): void {
  execFileSync('mount', ['--bind', writable, writable]);
  const needed = ['/proc', '/sys', '/run', writable];
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '/');
  for (const path of mounts) {
    if (!needed.some((each) => path === each || path.startsWith(`${each}/`))) execFileSync('mount', ['-o', 'remount,bind,ro', path]);
  }
}

const connect = (workspace: Workspace): Client =>
  new Client(`unix://${workspace.socket}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.use_local_subchannel_pool': 1,
  });

function waitForReady(client: Client): Promise<void> {
  return new Promise((settle, reject) => {
    client.waitForReady(Date.now() + deadlineMsDefault, (error) => (error ? reject(error) : settle()));
  });
}

function send<Response>(
  client: Client,
  rpc: string,
  request: object,
  { deadlineMs = deadlineMsDefault, cancelAfterMs }: SendOptions = {},
): Promise<CallResult<Response>> {
  const method = methods[rpc];
  assert.ok(method, rpc);
  const options = { deadline: Date.now() + deadlineMs };
  const serialize = (message: object): Buffer => (Buffer.isBuffer(message) ? message : method.requestSerialize(message));
  const deserialize = (bytes: Buffer): Response => method.responseDeserialize(bytes) as Response;
  return new Promise((settle) => {
    const finish = (error: { code: number; details: string } | null, response?: Response): void =>
      settle({ rpc, code: status[error?.code ?? 0] ?? '', details: error?.details ?? '', response });
    if (!method.responseStream) {
      const call = client.makeUnaryRequest(method.path, serialize, deserialize, request, new Metadata(), options, finish);
      if (cancelAfterMs !== undefined) setTimeout(() => call.cancel(), cancelAfterMs);
      return;
    }
    const call = client.makeServerStreamRequest(method.path, serialize, deserialize, request, new Metadata(), options);
    let first: Response | undefined;
    call.on('data', (message: Response) => (first ??= message));
    call.once('error', (error) => finish(error as unknown as { code: number; details: string }, first));
    call.once('end', () => finish(null, first));
    // GetContainerEvents does not end by itself.
    setTimeout(() => call.cancel(), cancelAfterMs ?? (rpc === 'GetContainerEvents' ? 50 : deadlineMs)).unref();
  });
}

function createRemoval(daemon: () => Daemon): Pick<CriBed, 'removeAll'> {
  const removeAll = async () => {
    const { client } = daemon();
    const { items } = await client.call<{ items: { id: string }[] }>('ListPodSandbox', {});
    for (const { id } of items) {
      await client.call('StopPodSandbox', { pod_sandbox_id: id });
      await client.call('RemovePodSandbox', { pod_sandbox_id: id });
    }
    const { containers } = await client.call<{ containers: { id: string }[] }>('ListContainers', {});
    for (const { id } of containers) await client.call('RemoveContainer', { container_id: id });
  };
  return { removeAll };
}

/** Returns leftovers without the pods' parent cgroups: those belong to the kubelet and may stay. */
async function findPodLeftovers(workspace: Workspace, daemon: Daemon): Promise<Record<string, readonly string[]>> {
  const below = (path: string): string[] =>
    readdirSync(path, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? [each.name, ...below(join(path, each.name))] : []));
  const cgroups = cgroupDirectories(workspace.cgroup)
    .flatMap(below)
    .filter((name) => /[0-9a-f]{64}/.test(name));
  return { ...(await findLeftovers(workspace, daemon)), cgroups };
}

/** Returns the targets of a process's file descriptors, sorted, with all numbers replaced by N. */
function openFiles(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\d+/g, 'N')];
      } catch {
        return [];
      }
    })
    .sort();
}

/** Creates files that break code which expects regular files: a FIFO, a huge sparse file, dangling and circular links, a socket. @returns paths. */
export function createHazardousFiles(directory: string): string[] {
  const at = (name: string): string => join(directory, name);
  mkdirSync(directory, { recursive: true });
  execFileSync('mkfifo', [at('fifo')]);
  writeFileSync(at('file'), '{}');
  writeFileSync(at('sparse'), '');
  truncateSync(at('sparse'), 1 << 40);
  symlinkSync('nowhere', at('dangling'));
  symlinkSync('loop', at('loop'));
  createServer().listen(at('socket')).unref();
  return [...['fifo', 'file', 'sparse', 'dangling', 'loop', 'socket', 'missing/a/b', 'x/../../..', '.', ''].map(at)];
}

/** Creates the mount sources of recorded requests, as the kubelet does. */
export function createMountSources(mounts: readonly { readonly host_path?: string; readonly container_path?: string }[]): void {
  for (const { host_path: path = '', container_path: target = '' } of mounts) {
    if (path === '' || existsSync(path)) continue;
    const isFile = /^\/etc\/hosts$|termination-log$/.test(target);
    mkdirSync(isFile ? dirname(path) : path, { recursive: true });
    if (isFile) writeFileSync(path, '');
  }
}
