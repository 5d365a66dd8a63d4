/**
 * Prints the trace of one pod start as a table: image pull, sandbox creation, and container creation until its program runs.
 *
 *   npm run bench:trace
 *
 * The daemon runs in separate namespaces and sends its spans to a receiver in this process.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectCri } from '../scripts/cri-client.ts';
import { serveRegistry } from '../scripts/mini-registry.ts';
import { buildSampleImage } from '../scripts/sample-image.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type ReceivedSpan, startOtlpReceiver, treeOf } from '../test/support/otlp-receiver.ts';
import { startRuntime } from '../test/support/runtime.ts';

/** The parent span of all calls, as a kubelet sends it. */
const kubeletSpan = '00f067aa0ba902b7';
const headers = { traceparent: `00-4bf92f3577b34da6a3ce929d0e0e4736-${kubeletSpan}-01` };

enterIsolation();
const workDir = mkdtempSync(join(tmpdir(), 'berth-trace-'));
try {
  say(table(await tracePodStart()));
} finally {
  rmSync(workDir, { recursive: true, force: true });
}

async function tracePodStart(): Promise<readonly ReceivedSpan[]> {
  const receiver = await startOtlpReceiver();
  const registry = await serveRegistry(new Map([['berth/sample:1', await buildSampleImage()]]));
  const runtime = await startRuntime('berth', { workDir, settings: `tracing_endpoint = "${receiver.url}"\n` });
  const client = connectCri(runtime.endpoint);
  try {
    // Trace the second pod: the first pod of a new daemon also compiles and loads code.
    await startPod(client, `${registry.host}/berth/sample:1`, 'first', {});
    await client.call('RemoveImage', { image: { image: `${registry.host}/berth/sample:1` } });
    await startPod(client, `${registry.host}/berth/sample:1`, 'second', headers);
  } finally {
    client.close();
    await runtime.stop();
    registry.stop();
    receiver.stop();
  }
  return receiver.spans;
}

/** Starts a pod with one container, then removes it. The removal is not part of the trace. */
async function startPod(client: ReturnType<typeof connectCri>, image: string, name: string, sent: Readonly<Record<string, string>>): Promise<void> {
  const call = <Answer>(method: string, request: object) => client.call<Answer>(method, request as never, 60_000, sent);
  const logDirectory = join(workDir, `logs-${name}`);
  mkdirSync(logDirectory);
  const sandbox = { metadata: { name, namespace: 'default', uid: name, attempt: 0 }, hostname: name, log_directory: logDirectory, linux: {} };
  await call('PullImage', { image: { image }, sandbox_config: sandbox });
  const { pod_sandbox_id: sandboxId } = await call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const config = { metadata: { name: 'main', attempt: 0 }, image: { image }, command: ['sleep', '1000'], log_path: 'main.log', linux: {} };
  const creation = { pod_sandbox_id: sandboxId, config, sandbox_config: sandbox };
  const { container_id: containerId } = await call<{ container_id: string }>('CreateContainer', creation);
  await call('StartContainer', { container_id: containerId });
  await client.call('RemovePodSandbox', { pod_sandbox_id: sandboxId });
}

function table(spans: readonly ReceivedSpan[]): string {
  const tree = treeOf(spans, kubeletSpan);
  const startNs = tree[0]?.span.startNs ?? 0n;
  const ms = (ns: bigint) => (Number(ns) / 1e6).toFixed(2).padStart(9);
  const rows = tree.map(({ span, depth }) => {
    const name = `${'  '.repeat(depth)}${span.name.replace(/^runtime\.v1\.\w+\//, '')}`;
    return `${name.padEnd(28)}${ms(span.startNs - startNs)}${ms(span.endNs - span.startNs)}  ${noteOf(span)}`.trimEnd();
  });
  return ['span (times in ms)              start duration', ...rows].join('\n');
}

function noteOf({ attributes }: ReceivedSpan): string {
  if (attributes['layer.bytes'] !== undefined) return `${attributes['layer.bytes']} bytes, files ${attributes['layer.files_ms']} ms`;
  if (attributes['plan.slowest'] === undefined) return '';
  return `${attributes['plan.operations']} operations, slowest: ${attributes['plan.slowest']}`;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
