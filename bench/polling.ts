/**
 * Measures the cost of a kubelet's polling with many idle pods: both lists every second, the stats of all containers every ten seconds, and probes.
 *
 *   npm run bench:polling -- [--pods N] [--seconds N] [--runtime berth|containerd] [--peer containerd]
 *
 * CPU time includes all processes of the runtime, because containerd's shims collect part of the stats. With --peer, the ratios are printed. Do not
 * compare results of different machines.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { CriClient } from '../scripts/cri-client.ts';
import { removeCgroup } from '../test/support/cgroups.ts';
import type { Runtime } from '../test/support/runtime.ts';
import { cpuWithChildrenMs, measureEach, printFigures, processes } from './beside-peer.ts';
import { percentile } from './statistics.ts';

const idleCommand = ['sleep', '86399'];
const inFlight = 4;
/** Time for the work that follows the start of many pods. */
const settleMs = 15_000;
/** Repetitions from which the CPU time of a single call is computed. */
const callRepetitions = 20;
const execRepetitions = 100;
/** The parent of the pods' cgroups, like a kubelet's. */
const cgroup = `berth-bench-${process.ppid}-${Date.now().toString(36)}`;

type Pod = { readonly pod_sandbox_id: string; readonly container_id: string };

type Figures = {
  /** CPU milliseconds per second: without any call, and with the polling. */
  readonly idle: number;
  readonly polled: number;
  /** CPU milliseconds of one call. */
  readonly perCall: ReadonlyMap<string, number>;
  /** Durations of calls in milliseconds. */
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

const names = [values.runtime, ...(values.peer === undefined ? [] : [values.peer])];
const figures = await measureEach(names, measureRuntime);
const first = figures[0]?.[1];
printFigures(`${podCount} pods with one idle container each, polled for ${seconds} s`, figures, [
  ['CPU when idle, ms/s', (each) => each.idle],
  ['CPU with polling, ms/s', (each) => each.polled],
  ...[...(first?.perCall.keys() ?? [])].map((method) => [`CPU per ${method}, ms`, (each: Figures) => each.perCall.get(method) ?? 0] as const),
  ...[...(first?.latencies.keys() ?? [])].map(
    (method) => [`${method} p50, ms`, (each: Figures) => percentile(each.latencies.get(method) ?? [], 50)] as const,
  ),
]);

async function measureRuntime(client: CriClient, runtime: Runtime, image: string): Promise<Figures> {
  const unrelated = new Set(processes().filter((pid) => pid !== runtime.pid));
  try {
    const pods = await createPods(client, image);
    await sleep(settleMs);
    // containerd's shims collect part of the stats: count every process that was started since.
    const cpu = () => processes().reduce((total, pid) => total + (unrelated.has(pid) ? 0 : cpuWithChildrenMs(pid)), 0);
    const measured = await measure(client, cpu, pods);
    for (const { pod_sandbox_id } of pods) {
      await client.call('StopPodSandbox', { pod_sandbox_id });
      await client.call('RemovePodSandbox', { pod_sandbox_id });
    }
    return measured;
  } finally {
    await removeCgroup(cgroup);
  }
}

async function measure(client: CriClient, cpu: () => number, pods: readonly Pod[]): Promise<Figures> {
  const idle = await perSecond(cpu, () => sleep(seconds * 500));
  const latencies = new Map<string, number[]>();
  const polled = await perSecond(cpu, () => poll(client, latencies));
  const perCall = new Map<string, number>();
  for (const method of ['ListPodSandbox', 'ListContainers', 'ListContainerStats', 'ListPodSandboxStats']) {
    const before = cpu();
    for (let n = 0; n < callRepetitions; n += 1) await client.call(method, {});
    perCall.set(method, (cpu() - before) / callRepetitions);
  }
  perCall.set('ExecSync', await execEach(client, cpu, pods, latencies));
  return { idle, polled, perCall, latencies };
}

/** Runs probes in one container after another. @returns CPU milliseconds of one probe, including the probe's own processes. */
async function execEach(client: CriClient, cpu: () => number, pods: readonly Pod[], latencies: Map<string, number[]>): Promise<number> {
  const durations: number[] = [];
  const before = cpu();
  for (let n = 0; n < execRepetitions; n += 1) {
    const container_id = pods[n % pods.length]?.container_id;
    const calledAt = performance.now();
    await client.call('ExecSync', { container_id, cmd: ['true'], timeout: '30' });
    durations.push(performance.now() - calledAt);
  }
  latencies.set('ExecSync', durations);
  return (cpu() - before) / execRepetitions;
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

/** Creates pods with one idle container each. */
async function createPods(client: CriClient, image: string): Promise<Pod[]> {
  const queue = Array.from({ length: podCount }, (_, index) => `pod-${index}`);
  const pods: Pod[] = [];
  const worker = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) pods.push(await createPod(client, image, name));
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  return pods;
}

async function createPod(client: CriClient, image: string, name: string): Promise<Pod> {
  const labels = { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'bench', 'io.kubernetes.pod.uid': `uid-${name}` };
  const metadata = { name, namespace: 'bench', uid: `uid-${name}`, attempt: 0 };
  const sandbox = { metadata, hostname: name, log_directory: `/run/bench-logs/${name}`, labels, linux: { cgroup_parent: `/${cgroup}/${name}` } };
  const config = { metadata: { name, attempt: 0 }, image: { image }, command: idleCommand, log_path: 'log', labels, linux: {} };
  const { pod_sandbox_id } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', { pod_sandbox_id, config, sandbox_config: sandbox });
  await client.call('StartContainer', { container_id });
  return { pod_sandbox_id, container_id };
}
