/**
 * Measures the cost of frequent calls: Version, and ListContainers with 500 containers. Needs neither root nor a daemon.
 *
 *   bin/node bench/list.ts
 *
 * The server runs in a separate process so that its CPU time is measured without the client's.
 */
import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import { loadContract } from '../src/cri/contract.ts';
import { listen } from '../src/cri/server.ts';
import { createItemBytes } from '../src/cri/to-response/item-bytes.ts';
import { container } from '../src/cri/to-response/to-response.ts';
import { containerSpec, containerView, fakeDeps, fakeLog } from '../test/support/cri-fakes.ts';
import { percentile } from './statistics.ts';

const containersCount = 500;
const contract = loadContract();

/** Creates containers with labels and annotations as large as the kubelet's. */
function manyContainers() {
  const labels = Object.fromEntries(
    ['pod.name', 'pod.namespace', 'pod.uid', 'container.name'].map((name) => [`io.kubernetes.${name}`, 'f6e7fbbaaec2be01c7f020e0abf439b9']),
  );
  const annotations = Object.fromEntries(
    ['hash', 'restartCount', 'terminationMessagePath', 'terminationMessagePolicy'].map((name) => [
      `io.kubernetes.container.${name}`,
      '/dev/termination-log',
    ]),
  );
  const spec = { ...containerSpec, labels, annotations };
  return Array.from({ length: containersCount }, (_, n) => containerView(String(n).padStart(64, '0'), { spec }, { startedAtNs: '5' }));
}

async function serve(path: string): Promise<void> {
  const deps = { ...fakeDeps({ containers: manyContainers() }), items: createItemBytes(contract.encoders), log: fakeLog() };
  await listen(contract, path, { ...deps, log: { debug() {}, info() {}, warn() {}, error() {} } });
  process.on('message', () => process.send?.(process.cpuUsage()));
  process.on('disconnect', () => process.exit(0));
  process.send?.('ready');
}

async function measure(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'berth-bench-'));
  const path = join(directory, 'cri.sock');
  const server = fork(import.meta.filename, [path]);
  const next = () => new Promise<unknown>((resolve) => server.once('message', resolve));
  try {
    await next();
    const client = new Client(`unix://${path}`, credentials.createInsecure());
    const cpuMs = async () => {
      const answer = next();
      server.send('cpu');
      const { user, system } = (await answer) as NodeJS.CpuUsage;
      return (user + system) / 1000;
    };
    await report(client, 'Version', 2000, cpuMs);
    await report(client, 'ListContainers', 300, cpuMs);
    client.close();
  } finally {
    server.disconnect();
    rmSync(directory, { recursive: true });
  }
}

async function report(client: Client, rpc: string, calls: number, cpuMs: () => Promise<number>): Promise<void> {
  const method = contract.runtime[rpc];
  if (method === undefined) throw new Error(`unknown method ${rpc}`);
  const once = () =>
    new Promise<Buffer>((resolve, reject) => {
      const done = (error: Error | null, bytes?: Buffer) => (error ? reject(error) : resolve(bytes ?? Buffer.alloc(0)));
      // Do not decode the response: that is the client's cost.
      client.makeUnaryRequest(method.path, method.requestSerialize, (bytes: Buffer) => bytes, {}, done);
    });
  for (let n = 0; n < calls / 10; n += 1) await once();
  const before = await cpuMs();
  const times: number[] = [];
  let bytes = 0;
  for (let n = 0; n < calls; n += 1) {
    const start = performance.now();
    bytes = (await once()).length;
    times.push(performance.now() - start);
  }
  const spent = (await cpuMs()) - before;
  const results = `p50 ${percentile(times, 50).toFixed(2)} ms, p99 ${percentile(times, 99).toFixed(2)} ms, server CPU ${(spent / calls).toFixed(2)} ms`;
  console.log(`${rpc}: ${calls} sequential calls, ${bytes} bytes each: ${results}`);
}

/** Measures how much CPU caching the encoded items saves, without the network. */
function reportEncoding(): void {
  const views = manyContainers();
  const items = createItemBytes(contract.encoders);
  const plain = () => contract.runtime['ListContainers']?.responseSerialize({ containers: views.map(container) });
  const cached = () => Buffer.concat(views.map(items.containers));
  for (const [name, encode] of Object.entries({ plain, cached })) {
    for (let n = 0; n < 20; n += 1) encode();
    const start = process.cpuUsage();
    for (let n = 0; n < 100; n += 1) encode();
    const { user, system } = process.cpuUsage(start);
    console.log(`encoding ${containersCount} containers, ${name}: ${((user + system) / 1000 / 100).toFixed(2)} ms CPU`);
  }
}

const [socketPath] = process.argv.slice(2);
if (socketPath !== undefined) await serve(socketPath);
else {
  reportEncoding();
  await measure();
}
