/**
 * Measures the cost of pods through the CRI socket, in separate namespaces: memory per pod, latency of each call, and a burst of pods.
 *
 *   npm run bench -- [--pods N] [--burst N] [--runtime berth|containerd] [--peer containerd]
 *   npm run bench -- --user-namespaces [--pods N]
 *
 * With --peer, the peer is measured after berth in the same run, and the ratios are printed. With --user-namespaces, pods without and with a user
 * namespace are created and removed in turn, with an image of many layers, and their times are compared. Do not compare results of different machines.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { CriClient, Message } from '../scripts/cri-client.ts';
import { buildLayer } from '../scripts/image-builder.ts';
import { serveRegistry } from '../scripts/mini-registry.ts';
import { buildSampleImage } from '../scripts/sample-image.ts';
import type { Runtime } from '../test/support/runtime.ts';
import { cpuWithChildrenMs, measureEach, printFigures, processes, type Row, readProc } from './beside-peer.ts';
import { percentile } from './statistics.ts';

/** The program of each container. Its command line distinguishes the containers' processes from the runtime's. */
const idleCommand = ['sleep', '86399'];
const inFlight = 8;
/** Time for the daemon to collect garbage and for the kernel to free the resources of exited processes. */
const settleMs = 10_000;
/** Pods whose times are dropped, because the code of a new daemon is not compiled yet. */
const warmUpRounds = 5;
const idsPerPod = 65_536;
/** Layers above that of busybox. Each is a mount with mapped ids. */
const layerCount = 11;

type Pod = { readonly sandboxId: string; readonly containerId: string };
type Samples = Map<string, number[]>;
/** PSS in KiB: the daemon before the pods and with them, and the runtime's other processes. */
type Memory = { readonly daemonKib: readonly [before: number, withPods: number]; readonly othersKib: number; readonly otherProcesses: number };
type Figures = {
  /** Milliseconds by method. */
  readonly samples: Samples;
  /** With the first pods of a new daemon: includes the one-time growth of its heap and compiled code. */
  readonly first: Memory;
  /** With the same number of pods after the first ones were removed: the cost of the pods alone. */
  readonly second: Memory;
  readonly burstPodsPerSecond: number;
};

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '50' },
    burst: { type: 'string', default: '40' },
    runtime: { type: 'string', default: 'berth' },
    peer: { type: 'string' },
    'user-namespaces': { type: 'boolean', default: false },
  },
});
const podCount = Number(values.pods);
const burstCount = Number(values.burst);
const names = [values.runtime, ...(values.peer === undefined ? [] : [values.peer])];

if (values['user-namespaces']) await compareUserNamespaces();
else await compareRuntimes();

async function compareRuntimes(): Promise<void> {
  const figures = await measureEach(names, measure);
  printFigures(`${podCount} pods with one idle container each`, figures, [
    ...memoryRows('first pods', (each) => each.first),
    ...memoryRows('second pods', (each) => each.second),
    ['new daemon, MiB PSS', (each) => each.first.daemonKib[0] / 1024],
    ['daemon with pods, MiB PSS', (each) => each.second.daemonKib[1] / 1024],
    ['runtime processes per pod, without the daemon', (each) => each.second.otherProcesses / podCount],
    ...[...(figures[0]?.[1].samples.keys() ?? [])].flatMap((method) =>
      [50, 99].map((percent) => [`${method} p${percent}, ms`, (each: Figures) => percentile(each.samples.get(method) ?? [], percent)] as const),
    ),
    [`burst of ${burstCount}, ${inFlight} in flight, pods/s`, (each) => each.burstPodsPerSecond],
  ]);
}

async function measure(client: CriClient, { pid: daemonPid }: Runtime, image: string): Promise<Figures> {
  const first = await measureMemory(client, daemonPid, image, 'first', new Map());
  const samples: Samples = new Map();
  const second = await measureMemory(client, daemonPid, image, 'second', samples);
  const startedAt = performance.now();
  const burst = await createPods(client, image, burstCount, 'burst', inFlight, new Map());
  const burstPodsPerSecond = (burstCount * 1000) / (performance.now() - startedAt);
  await removePods(client, burst, new Map());
  return { samples, first, second, burstPodsPerSecond };
}

type Kind = 'plain' | 'mapped';
/** Milliseconds of each pod's life; those of the daemon's CPU time include its children. */
type Lives = { readonly samples: Samples; readonly totals: number[]; readonly cpu: number[] };

async function compareUserNamespaces(): Promise<void> {
  const [[, lives] = [undefined, undefined]] = await measureEach(['berth'], measureInTurn);
  if (lives === undefined) return;
  const methods = [...lives.plain.samples.keys()];
  const rows: Row<Lives>[] = [
    ...methods.map((method) => [`${method} p50, ms`, (each: Lives) => percentile(each.samples.get(method) ?? [], 50)] as const),
    ['all calls of a pod p50, ms', (each) => percentile(each.totals, 50)],
    ['all calls of a pod p25, ms', (each) => percentile(each.totals, 25)],
    ['CPU time of daemon, monitors, plugins, ms per pod', (each) => each.cpu.reduce((sum, ms) => sum + ms, 0) / each.cpu.length],
  ];
  const figures = [
    ['plain', lives.plain],
    ['mapped', lives.mapped],
  ] as const;
  printFigures(`${podCount} pods without and ${podCount} with a user namespace, in turn, ${layerCount + 1} layers`, figures, rows, 'mapped/plain');
}

async function measureInTurn(client: CriClient, { pid }: Runtime): Promise<Record<Kind, Lives>> {
  const image = await pullLayers(client);
  const newLives = (): Lives => ({ samples: new Map(), totals: [], cpu: [] });
  const lives = { plain: newLives(), mapped: newLives() };
  for (let round = -warmUpRounds; round < podCount; round += 1) {
    for (const kind of ['plain', 'mapped'] as const) {
      const { samples, totals, cpu } = round < 0 ? newLives() : lives[kind];
      const [startedAt, cpuBefore] = [performance.now(), cpuWithChildrenMs(pid)];
      const pod = await createPod(client, image, `${kind}-${round}`, samples, kind === 'mapped' ? idsOfPod(round) : {});
      await execTrue(client, pod, samples);
      await removePods(client, [pod], samples);
      totals.push(performance.now() - startedAt);
      cpu.push(cpuWithChildrenMs(pid) - cpuBefore);
    }
  }
  return lives;
}

/** Pulls an image of many layers. */
async function pullLayers(client: CriClient): Promise<string> {
  const layers = await Promise.all(Array.from({ length: layerCount }, (_, n) => buildLayer([{ kind: 'file', path: `files/${n}`, data: `${n}` }])));
  const registry = await serveRegistry(new Map([['berth/layers:1', await buildSampleImage(layers)]]));
  const image = `${registry.host}/berth/layers:1`;
  await client.call('PullImage', { image: { image } });
  registry.stop();
  return image;
}

/** Returns the namespace options with which a kubelet requests a user namespace. */
function idsOfPod(round: number): Message {
  const range = [{ host_id: idsPerPod * (1 + warmUpRounds + round), container_id: 0, length: idsPerPod }];
  return { userns_options: { mode: 'POD', uids: range, gids: range } };
}

/** Creates the pods, measures memory, and removes them. */
async function measureMemory(client: CriClient, daemonPid: number, image: string, prefix: string, samples: Samples): Promise<Memory> {
  await sleep(settleMs);
  const known = new Set(processes());
  const daemonBefore = pssKib(daemonPid);
  const pods = await createPods(client, image, podCount, prefix, 1, samples);
  for (const pod of pods) await execTrue(client, pod, samples);
  await sleep(settleMs);
  const daemonWith = pssKib(daemonPid);
  const others = processes().filter((pid) => !known.has(pid) && !isIdleCommand(pid));
  const othersKib = others.reduce((sum, pid) => sum + pssKib(pid), 0);
  await removePods(client, pods, samples);
  return { daemonKib: [daemonBefore, daemonWith], othersKib, otherProcesses: others.length };
}

async function createPods(client: CriClient, image: string, count: number, prefix: string, concurrency: number, samples: Samples): Promise<Pod[]> {
  const pods: Pod[] = [];
  const queue = Array.from({ length: count }, (_, index) => `${prefix}-${index}`);
  const worker = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) pods.push(await createPod(client, image, name, samples));
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
  return pods;
}

async function execTrue(client: CriClient, pod: Pod, samples: Samples): Promise<void> {
  await timed(samples, 'ExecSync', () => client.call('ExecSync', { container_id: pod.containerId, cmd: ['true'], timeout: '10' }));
}

async function createPod(client: CriClient, image: string, name: string, samples: Samples, namespace_options: Message = {}): Promise<Pod> {
  const linux = { security_context: { namespace_options } };
  const sandbox = {
    metadata: { name, namespace: 'bench', uid: `uid-${name}`, attempt: 0 },
    hostname: name,
    log_directory: `/run/bench-logs/${name}`,
    linux,
  };
  const config = { metadata: { name, attempt: 0 }, image: { image }, command: idleCommand, log_path: 'log', linux };
  const run = () => client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const { pod_sandbox_id: sandboxId } = await timed(samples, 'RunPodSandbox', run);
  const creation = { pod_sandbox_id: sandboxId, config, sandbox_config: sandbox };
  const create = () => client.call<{ container_id: string }>('CreateContainer', creation);
  const { container_id: containerId } = await timed(samples, 'CreateContainer', create);
  await timed(samples, 'StartContainer', () => client.call('StartContainer', { container_id: containerId }));
  return { sandboxId, containerId };
}

async function removePods(client: CriClient, pods: readonly Pod[], samples: Samples): Promise<void> {
  for (const { sandboxId, containerId } of pods) {
    await timed(samples, 'StopContainer', () => client.call('StopContainer', { container_id: containerId, timeout: '0' }));
    await timed(samples, 'RemoveContainer', () => client.call('RemoveContainer', { container_id: containerId }));
    await timed(samples, 'StopPodSandbox', () => client.call('StopPodSandbox', { pod_sandbox_id: sandboxId }));
    await timed(samples, 'RemovePodSandbox', () => client.call('RemovePodSandbox', { pod_sandbox_id: sandboxId }));
  }
}

async function timed<T>(samples: Samples, method: string, call: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  const response = await call();
  samples.set(method, [...(samples.get(method) ?? []), performance.now() - startedAt]);
  return response;
}

function isIdleCommand(pid: number): boolean {
  return readProc(pid, 'cmdline') === `${idleCommand.join('\0')}\0`;
}

/** Returns the proportional set size: private memory and the process's share of shared memory. 0 for an exited process. */
function pssKib(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB$/m.exec(readProc(pid, 'smaps_rollup'))?.[1] ?? 0);
}

function memoryRows(label: string, memory: (each: Figures) => Memory): Row<Figures>[] {
  const growthKib = (each: Figures) => memory(each).daemonKib[1] - memory(each).daemonKib[0];
  return [
    [`${label}: KiB PSS per pod, without containers`, (each) => (memory(each).othersKib + growthKib(each)) / podCount],
    [`${label}: of that, other processes`, (each) => memory(each).othersKib / podCount],
    [`${label}: of that, growth of the daemon`, (each) => growthKib(each) / podCount],
  ];
}
