/**
 * What a kubelet's polling costs a runtime: both lists each second, the statistics of all containers every ten, with many idle pods.
 *
 *   node bench/polling.ts [--pods N] [--seconds N] [--runtime berth|containerd] [--peer containerd]
 *
 * CPU is that of all processes of the runtime: a peer may ask others for its figures. With --peer the ratios are printed. Figures of one machine
 * compare with nothing else.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type CriClient, connectCri } from '../scripts/cri-client.ts';
import { buildDir, preparePeer, prepareTools, registryUrl, serveImages } from '../test/critest/prepare.ts';
import { removeCgroup } from '../test/support/cgroups.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type RuntimeName, startRuntime } from '../test/support/runtime.ts';
import { percentile } from './statistics.ts';

const image = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';
const idleCommand = ['sleep', '86399'];
const inFlight = 4;
/** For what follows the start of many pods to be over. */
const settleMs = 15_000;
/** Of each call in a row, for its own cost. */
const callsInRow = 20;
const msPerTick = 10;
/** Of all pods, each of which has one below it, as with a kubelet. */
const cgroup = `berth-bench-${process.ppid}-${Date.now().toString(36)}`;

type Figures = {
  /** Milliseconds of CPU a second: without any call, and with the polling. */
  readonly idle: number;
  readonly polled: number;
  /** CPU of one call. */
  readonly perCall: ReadonlyMap<string, number>;
  /** Milliseconds that calls took. */
  readonly latencies: ReadonlyMap<string, readonly number[]>;
};

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '100' },
    seconds: { type: 'string', default: '60' },
    runtime: { type: 'string', default: 'berth' },
    peer: { type: 'string' },
  },
});
const podCount = Number(values.pods);
const seconds = Number(values.seconds);
const names = [values.runtime, ...(values.peer === undefined ? [] : [values.peer])].map(toRuntimeName);

mkdirSync(buildDir, { recursive: true });
prepareTools();
if (names.includes('containerd')) preparePeer();
enterIsolation();
await main();

async function main(): Promise<void> {
  const stopRegistry = await serveImages();
  const figures: [RuntimeName, Figures][] = [];
  for (const name of names) figures.push([name, await measureRuntime(name)]);
  stopRegistry();
  print(figures);
}

function toRuntimeName(name: string): RuntimeName {
  if (name === 'berth' || name === 'containerd') return name;
  throw new Error(`no runtime ${name}: berth or containerd`);
}

async function measureRuntime(name: RuntimeName): Promise<Figures> {
  const workDir = mkdtempSync(join(buildDir, 'bench-'));
  const known = new Set(processes());
  const runtime = await startRuntime(name, { workDir, mirrorUrl: registryUrl });
  const client = connectCri(runtime.endpoint);
  try {
    await client.call('PullImage', { image: { image } });
    const sandboxes = await makePods(client);
    await sleep(settleMs);
    const figures = await measure(client, () => cpuMs(known));
    for (const sandboxId of sandboxes) {
      await client.call('StopPodSandbox', { pod_sandbox_id: sandboxId });
      await client.call('RemovePodSandbox', { pod_sandbox_id: sandboxId });
    }
    return figures;
  } finally {
    client.close();
    await runtime.stop();
    await removeCgroup(cgroup);
    rmSync(workDir, { recursive: true, force: true });
  }
}

async function measure(client: CriClient, cpu: () => number): Promise<Figures> {
  const idle = await perSecond(cpu, () => sleep(seconds * 500));
  const latencies = new Map<string, number[]>();
  const polled = await perSecond(cpu, () => poll(client, latencies));
  const perCall = new Map<string, number>();
  for (const method of ['ListPodSandbox', 'ListContainers', 'ListContainerStats', 'ListPodSandboxStats']) {
    const before = cpu();
    for (let n = 0; n < callsInRow; n += 1) await client.call(method, {});
    perCall.set(method, (cpu() - before) / callsInRow);
  }
  return { idle, polled, perCall, latencies };
}

async function perSecond(cpu: () => number, work: () => Promise<unknown>): Promise<number> {
  const [before, startedAt] = [cpu(), performance.now()];
  await work();
  return ((cpu() - before) * 1000) / (performance.now() - startedAt);
}

async function poll(client: CriClient, latencies: Map<string, number[]>): Promise<void> {
  const startedAt = performance.now();
  for (let second = 0; second < seconds; second += 1) {
    for (const method of ['ListPodSandbox', 'ListContainers', ...(second % 10 === 0 ? ['ListContainerStats'] : [])]) {
      const calledAt = performance.now();
      await client.call(method, {});
      latencies.set(method, [...(latencies.get(method) ?? []), performance.now() - calledAt]);
    }
    await sleep(Math.max(0, startedAt + (second + 1) * 1000 - performance.now()));
  }
}

/** @returns the ids of the sandboxes, each with one idle container. */
async function makePods(client: CriClient): Promise<string[]> {
  const queue = Array.from({ length: podCount }, (_, index) => `pod-${index}`);
  const sandboxes: string[] = [];
  const worker = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) sandboxes.push(await makePod(client, name));
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  return sandboxes;
}

async function makePod(client: CriClient, name: string): Promise<string> {
  const labels = { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'bench', 'io.kubernetes.pod.uid': `uid-${name}` };
  const metadata = { name, namespace: 'bench', uid: `uid-${name}`, attempt: 0 };
  const sandbox = { metadata, hostname: name, log_directory: `/run/bench-logs/${name}`, labels, linux: { cgroup_parent: `/${cgroup}/${name}` } };
  const config = { metadata: { name, attempt: 0 }, image: { image }, command: idleCommand, log_path: 'log', labels, linux: {} };
  const { pod_sandbox_id } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', { pod_sandbox_id, config, sandbox_config: sandbox });
  await client.call('StartContainer', { container_id });
  return pod_sandbox_id;
}

/** All in this pid namespace. */
function processes(): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 0);
}

/** CPU time of all processes but the known ones and the containers' own, which sleep; in milliseconds, those that have ended not counted. */
function cpuMs(known: ReadonlySet<number>): number {
  return processes()
    .filter((pid) => !known.has(pid))
    .reduce((total, pid) => total + cpuTicks(pid) * msPerTick, 0);
}

/** utime and stime of /proc/PID/stat: fields 14 and 15, proc_pid_stat(5). */
function cpuTicks(pid: number): number {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return Number(fields[11]) + Number(fields[12]);
  } catch {
    return 0;
  }
}

function print(figures: readonly [RuntimeName, Figures][]): void {
  const rows: (readonly [string, (each: Figures) => number])[] = [
    ['CPU without calls, ms a second', (each) => each.idle],
    ['CPU with the polling, ms a second', (each) => each.polled],
    ...[...(figures[0]?.[1].perCall.keys() ?? [])].map(
      (method) => [`CPU of one ${method}, ms`, (each: Figures) => each.perCall.get(method) ?? 0] as const,
    ),
    ...[...(figures[0]?.[1].latencies.keys() ?? [])].map(
      (method) => [`${method} p50, ms`, (each: Figures) => percentile(each.latencies.get(method) ?? [], 50)] as const,
    ),
  ];
  say(`${podCount} pods with one idle container each, polled for ${seconds} s; load average at the end ${loadavg()[0]?.toFixed(1)}`);
  say(['figure'.padEnd(44), ...figures.map(([name]) => name.padStart(12)), figures.length > 1 ? 'peer/berth'.padStart(12) : ''].join(''));
  for (const [label, value] of rows) {
    const numbers = figures.map(([, each]) => value(each));
    const [own = 0, other] = numbers;
    const ratio = other === undefined ? [] : [own === 0 ? '-' : (other / own).toFixed(1)];
    say([label.padEnd(44), ...[...numbers.map((number) => number.toFixed(2)), ...ratio].map((text) => text.padStart(12))].join(''));
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
