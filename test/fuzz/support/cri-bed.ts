/**
 * A real daemon to be treated badly: it may write to its own directories alone, its answers are taken as they come, and what it leaves is looked for.
 *
 * Belongs inside isolation.ts.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { buildSampleImage } from '../../../scripts/sample-image.ts';
import { type Daemon, makePlace, type Place, startDaemon, tracesOf } from '../../root/support/daemon.ts';
import { pullSample, runContainer, runPod } from '../../root/support/pods.ts';
import { cgroupDirectories } from '../../support/cgroups.ts';
import { loadCriTypes } from '../../support/cri-mutations.ts';

export type Answer<Response = unknown> = {
  readonly rpc: string;
  /** Name of the gRPC code. */
  readonly code: string;
  readonly details: string;
  /** Of a stream, the first message. */
  readonly response?: Response | undefined;
};

export type SendOptions = { readonly deadlineMs?: number; readonly cancelAfterMs?: number };

export type CriBed = {
  readonly place: Place;
  readonly image: string;
  readonly daemon: () => Daemon;
  /** @param request a message, or bytes instead of one. Never throws. */
  readonly send: <Response = unknown>(rpc: string, request: object, options?: SendOptions) => Promise<Answer<Response>>;
  readonly restart: () => Promise<void>;
  readonly removeAll: () => Promise<void>;
  /** @throws AssertionError naming what is on the machine, or open in the daemon, that was not there at the start. */
  readonly assertClean: () => Promise<void>;
  readonly end: () => Promise<void>;
};

const { services } = loadCriTypes();
export const methods: Readonly<Record<string, (typeof services)[number][string]>> = Object.assign({}, ...services);

const deadlineMsDefault = 60_000;

export async function openCriBed(): Promise<CriBed> {
  const place = makePlace();
  // It is built where nothing can be written to afterwards.
  await buildSampleImage();
  protectMachine(dirname(place.directory));
  let daemon = await startDaemon(place);
  let client = connect(place);
  const image = await pullSample(daemon.client);
  const { removeAll } = createRemoval(() => daemon);
  // What is made once for all pods: bridge, chains, what the daemon opens at its first of a kind.
  const pod = await runPod(daemon.client, 'first', place.directory, { port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 18200 }] });
  await runContainer(daemon.client, pod, image, 'c', 'sleep 1000');
  await removeAll();
  await send(client, 'Version', {});
  const traces = await tracesAbout(place, daemon);
  const files = openFiles(daemon.pid);
  const newFiles = (pid: number): string[] => {
    const known = [...files];
    return openFiles(pid).filter((file) => {
      const at = known.indexOf(file);
      if (at >= 0) known.splice(at, 1);
      return at < 0;
    });
  };
  /** Of daemons that are gone; calls of them may not be over. */
  const left: Client[] = [];
  return {
    place,
    image,
    daemon: () => daemon,
    send: (rpc, request, options) => send(client, rpc, request, options),
    restart: async () => {
      await daemon.end('SIGKILL');
      left.push(client);
      daemon = await startDaemon(place);
      client = connect(place);
      await ready(client);
    },
    removeAll,
    assertClean: async () => {
      assert.deepEqual(await tracesAbout(place, daemon), traces);
      for (const each of left.splice(0)) each.close();
      for (let waits = 0; waits < 100 && newFiles(daemon.pid).length > 0; waits += 1) await sleep(50);
      assert.deepEqual(newFiles(daemon.pid), []);
    },
    end: async () => {
      for (const each of [...left, client]) each.close();
      assert.equal(await daemon.end('SIGTERM'), 0);
      await place.remove();
    },
  };
}

/** Whatever a request names: nothing of this machine can be written to but below `writable`, in this mount namespace. */
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

const connect = (place: Place): Client =>
  new Client(`unix://${place.socket}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1, 'grpc.use_local_subchannel_pool': 1 });

function ready(client: Client): Promise<void> {
  return new Promise((settle, reject) => {
    client.waitForReady(Date.now() + deadlineMsDefault, (error) => (error ? reject(error) : settle()));
  });
}

function send<Response>(
  client: Client,
  rpc: string,
  request: object,
  { deadlineMs = deadlineMsDefault, cancelAfterMs }: SendOptions = {},
): Promise<Answer<Response>> {
  const method = methods[rpc];
  assert.ok(method, rpc);
  const options = { deadline: Date.now() + deadlineMs };
  const serialize = (message: object): Buffer => (Buffer.isBuffer(message) ? message : method.requestSerialize(message));
  const deserialize = (bytes: Buffer): Response => method.responseDeserialize(bytes) as Response;
  return new Promise((settle) => {
    const answer = (error: { code: number; details: string } | null, response?: Response): void =>
      settle({ rpc, code: status[error?.code ?? 0] ?? '', details: error?.details ?? '', response });
    if (!method.responseStream) {
      const call = client.makeUnaryRequest(method.path, serialize, deserialize, request, new Metadata(), options, answer);
      if (cancelAfterMs !== undefined) setTimeout(() => call.cancel(), cancelAfterMs);
      return;
    }
    const call = client.makeServerStreamRequest(method.path, serialize, deserialize, request, new Metadata(), options);
    let first: Response | undefined;
    call.on('data', (message: Response) => (first ??= message));
    call.once('error', (error) => answer(error as unknown as { code: number; details: string }, first));
    call.once('end', () => answer(null, first));
    // Events never end by themselves.
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

/** The parents of pods' cgroups are a kubelet's: they may stay. */
async function tracesAbout(place: Place, daemon: Daemon): Promise<Record<string, readonly string[]>> {
  const below = (path: string): string[] =>
    readdirSync(path, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? [each.name, ...below(join(path, each.name))] : []));
  const cgroups = cgroupDirectories(place.cgroup)
    .flatMap(below)
    .filter((name) => /[0-9a-f]{64}/.test(name));
  return { ...(await tracesOf(place, daemon)), cgroups };
}

/** What the descriptors of a process are of, without the numbers that differ each time; sorted. */
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

/** Files that hurt whoever takes them for plain ones. @returns their paths. */
export function makeHazards(directory: string): string[] {
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

/** Makes the sources of recorded mounts, which a kubelet would have made. */
export function makeSources(mounts: readonly { readonly host_path?: string; readonly container_path?: string }[]): void {
  for (const { host_path: path = '', container_path: target = '' } of mounts) {
    if (path === '' || existsSync(path)) continue;
    const isFile = /^\/etc\/hosts$|termination-log$/.test(target);
    mkdirSync(isFile ? dirname(path) : path, { recursive: true });
    if (isFile) writeFileSync(path, '');
  }
}
