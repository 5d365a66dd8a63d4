/**
 * Draws docs/dashboard.svg, the dashboard of deploy/ with real data: runs a daemon under load, lets Prometheus scrape it, and runs each panel's
 * queries as Grafana does.
 *
 *   npm run bench:dashboard [-- SECONDS]     default: 150
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from '../scripts/cri-client.ts';
import { buildImage, buildLayer, type Image } from '../scripts/image-builder.ts';
import { serveRegistry } from '../scripts/mini-registry.ts';
import { buildSampleImage } from '../scripts/sample-image.ts';
import { dashboardPanels, type Panel, substituteVariables } from '../test/support/dashboard.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type Prometheus, type RangeSeries, startPrometheus } from '../test/support/prometheus.ts';
import { startRuntime } from '../test/support/runtime.ts';
import { type Drawing, drawDashboard, type Line, type Range } from './dashboard-svg.ts';

const output = resolve(import.meta.dirname, '../docs/dashboard.svg');
const target = '127.0.0.1:19418';
const rateInterval = '15s';
const pollMs = 1000;
const podEveryMs = 6000;
const podsMax = 8;

/** The containers' workloads: idle, CPU load, memory use beyond the limit, failure. */
const programs = [
  'sleep 1000',
  'while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.2; done',
  'tail /dev/zero',
  'sleep 3; exit 4',
] as const;

enterIsolation();
const seconds = Number(process.argv[2] ?? 150);
const workDir = mkdtempSync(join(tmpdir(), 'berth-dashboard-'));
try {
  writeFileSync(output, await drawRun());
  process.stdout.write(`${output}\n`);
} finally {
  rmSync(workDir, { recursive: true, force: true });
}

async function drawRun(): Promise<string> {
  const sample = await buildSampleImage();
  const images = await Promise.all(
    Array.from({ length: 1 + (seconds * 1000) / podEveryMs }, async (_, index) => [`berth/data:${index}`, await dataImage(index)] as const),
  );
  const registry = await serveRegistry(new Map([['berth/sample:1', sample], ...images]));
  const runtime = await startRuntime('berth', { workDir, settings: `metrics = "${target}"\nmetrics_containers = true\n` });
  const client = connectCri(runtime.endpoint);
  const prometheus = startPrometheus({ workDir, target });
  try {
    const start = Date.now() / 1000 + 3;
    await generateLoad(client, `${registry.host}/berth`, Date.now() + seconds * 1000);
    const range = { start, end: Date.now() / 1000 };
    return drawDashboard(await Promise.all(dashboardPanels().map((panel) => queryPanel(prometheus, panel, range))), range);
  } finally {
    const { items = [] } = await client.call<{ items: { id: string }[] }>('ListPodSandbox', {});
    for (const { id } of items) await client.call('RemovePodSandbox', { pod_sandbox_id: id });
    client.close();
    await prometheus.stop();
    await runtime.stop();
    registry.stop();
  }
}

/** Builds an image with two unique layers of 1 to 4 MiB each. */
async function dataImage(seed: number): Promise<Image> {
  const layer = (part: number) => buildLayer([{ kind: 'file', path: `data/${seed}-${part}`, data: randomBytes((1 + (seed % 4)) * 2 ** 20) }]);
  return buildImage([await layer(0), await layer(1)], {}, undefined, process.arch === 'x64' ? 'amd64' : process.arch);
}

/** Polls the daemon like a kubelet, and starts and removes pods. */
async function generateLoad(client: CriClient, repository: string, untilMs: number): Promise<void> {
  const image = `${repository}/sample:1`;
  const isOver = () => Date.now() >= untilMs;
  const poll = async () => {
    for (; !isOver(); await sleep(pollMs)) {
      await Promise.all(
        ['ListPodSandbox', 'ListContainers', 'ListPodSandboxStats', 'ImageFsInfo', 'Status'].map((method) => client.call(method, {})),
      );
    }
  };
  const pods: string[] = [];
  const changePods = async () => {
    for (let number = 0; !isOver(); number += 1) {
      // A new image, one that is already present, and sometimes one that does not exist.
      for (const name of [`data:${number}`, 'sample:1', ...(number % 4 === 2 ? ['absent:1'] : [])]) {
        await client.call('PullImage', { image: { image: `${repository}/${name}` } }).catch(() => undefined);
      }
      pods.push(await startPod(client, image, number));
      const oldest = pods.length > podsMax || number % 5 === 4 ? pods.shift() : undefined;
      if (oldest !== undefined) await removePod(client, oldest);
      await sleep(podEveryMs);
    }
  };
  await Promise.all([poll(), changePods()]);
}

async function startPod(client: CriClient, image: string, number: number): Promise<string> {
  const name = `web-${number}`;
  const config = {
    metadata: { name, namespace: number % 2 === 0 ? 'shop' : 'default', uid: name, attempt: 0 },
    hostname: name,
    log_directory: join(workDir, 'logs'),
    linux: {},
  };
  const { pod_sandbox_id: sandboxId } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config });
  const container = {
    metadata: { name: 'main', attempt: 0 },
    image: { image },
    command: ['sh', '-c', programs[number % programs.length] ?? ''],
    log_path: `${name}.log`,
    linux: { resources: { memory_limit_in_bytes: String(24 * 2 ** 20) } },
  };
  const creation = { pod_sandbox_id: sandboxId, config: container, sandbox_config: config };
  const { container_id: id } = await client.call<{ container_id: string }>('CreateContainer', creation);
  await client.call('StartContainer', { container_id: id });
  await client.call('ExecSync', { container_id: id, cmd: ['true'], timeout: '10' }).catch(() => undefined);
  await client.call('ContainerStatus', { container_id: id });
  if (number % 2 === 0) await forwardPort(client, sandboxId);
  return sandboxId;
}

/** Opens a port-forward session that lasts podEveryMs. */
async function forwardPort(client: CriClient, sandboxId: string): Promise<void> {
  const { url } = await client.call<{ url: string }>('PortForward', { pod_sandbox_id: sandboxId, port: [80] });
  const headers = { connection: 'upgrade', upgrade: 'SPDY/3.1', 'x-stream-protocol-version': 'portforward.k8s.io' };
  const [, socket] = (await once(request(url, { method: 'POST', headers }).end(), 'upgrade')) as [unknown, Socket];
  socket.on('error', () => {});
  setTimeout(() => socket.destroy(), podEveryMs).unref();
}

async function removePod(client: CriClient, id: string): Promise<void> {
  await client.call('StopPodSandbox', { pod_sandbox_id: id });
  await client.call('RemovePodSandbox', { pod_sandbox_id: id });
}

async function queryPanel(prometheus: Prometheus, panel: Panel, range: Range): Promise<Drawing> {
  const lines = await Promise.all(
    (panel.targets ?? []).map(async ({ expr, legendFormat }) => {
      const series = await prometheus.queryRange(substituteVariables(expr, rateInterval), { ...range, step: 2 });
      return series.map((each): Line => ({ name: nameOf(legendFormat, each), points: pointsOf(each) }));
    }),
  );
  return { panel, lines: lines.flat() };
}

function nameOf(format: string, { metric }: RangeSeries): string {
  return format.replaceAll(/\{\{(\w+)\}\}/g, (_, label: string) => metric[label] ?? '');
}

/** Returns the points of a series without NaN, which a quantile of no samples is. */
function pointsOf({ values }: RangeSeries): Line['points'] {
  return values.flatMap(([at, text]) => (Number.isFinite(Number(text)) ? [[at, Number(text)] as const] : []));
}
