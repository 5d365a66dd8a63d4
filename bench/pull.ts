/**
 * Measures image pulls through the CRI socket from a registry on loopback: wall time, CPU time and peak memory of the daemon. Measures berth and
 * containerd in turn, each round with new daemons. The images have many small or few large files, 1 or 12 layers, gzip or zstd. Two more images
 * share their base layers with an image that is already present.
 *
 *   npm run bench:pull -- [--rounds N] [--runtime berth|containerd]... [--only TEXT]
 *
 * Prints at the end how berth spent the time, according to its log. Do not compare results of different machines.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type CriClient, connectCri } from '../scripts/cri-client.ts';
import { preparePeer } from '../test/critest/prepare.ts';
import { enterIsolation } from '../test/support/isolation.ts';
import { type RuntimeName, startRuntime } from '../test/support/runtime.ts';
import { type BenchImage, benchImages, digestOf, makeLayer, sharingImages } from './pull-images.ts';
import { percentile } from './statistics.ts';

const registryHost = '127.0.0.1:5000';
const workRoot = resolve(import.meta.dirname, '../build/bench-pull');
/** Unit of utime and stime in /proc/PID/stat: USER_HZ is 100 on every Linux that Node runs on. */
const tickMs = 10;
const diskBytes = 8 * 2 ** 30;
/** Many times what a pull writes: the host reclaims a guest's free memory within seconds, in pieces. */
const touchedBytes = 2 ** 31;

type Pull = { readonly wallMs: number; readonly cpuMs: number; readonly peakKib: number };
type Results = Map<string, Map<RuntimeName, Pull[]>>;

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '3' }, runtime: { type: 'string', multiple: true }, only: { type: 'string', default: '' } },
});
const runtimes = (values.runtime ?? ['berth', 'containerd']).map(toRuntimeName);

mkdirSync(workRoot, { recursive: true });
if (runtimes.includes('containerd')) preparePeer();
enterIsolation();
await main();

async function main(): Promise<void> {
  const stopRegistry = await serveImages();
  const results: Results = new Map();
  const timings: string[] = [];
  try {
    for (let round = 0; round < Number(values.rounds); round += 1) {
      for (const name of round % 2 === 0 ? runtimes : runtimes.toReversed()) await measureRuntime(name, results, timings);
    }
  } finally {
    stopRegistry();
  }
  print(results, timings);
}

function toRuntimeName(name: string): RuntimeName {
  if (name === 'berth' || name === 'containerd') return name;
  throw new Error(`unknown runtime ${name}: want berth or containerd`);
}

/** Pulls each image once with a new daemon and an empty store. */
async function measureRuntime(name: RuntimeName, results: Results, timings: string[]): Promise<void> {
  const workDir = mkdtempSync(join(workRoot, 'run-'));
  const removeDisk = mountNewDisk(workDir);
  const runtime = await startRuntime(name, { workDir, mirrorUrl: `http://${registryHost}` });
  const client = connectCri(runtime.endpoint);
  const measure = async (label: string, image: BenchImage) => {
    const pull = await measurePull(client, runtime.pid, image);
    const byRuntime = results.get(label) ?? new Map<RuntimeName, Pull[]>();
    results.set(label, byRuntime.set(name, [...(byRuntime.get(name) ?? []), pull]));
  };
  try {
    for (const image of benchImages().filter(({ reference }) => reference.includes(values.only))) await measure(image.reference.slice(6, -2), image);
    const { base, same, other } = sharingImages();
    if (!'shared'.includes(values.only)) return;
    await pullImage(client, base);
    await measure('base present, same blobs', same);
    await measure('base present, other blobs', other);
  } finally {
    client.close();
    if (name === 'berth') timings.push(...readTimings(runtime.logFile));
    await runtime.stop();
    removeDisk();
  }
}

/**
 * Mounts a new ext4 file system from a file, so that no run is slowed down by the one before: when ext4 searches for a free inode, it skips recently
 * deleted ones one by one for some minutes, and creating files where many were just deleted takes twenty times as long.
 *
 * @returns a function that unmounts and deletes it.
 */
function mountNewDisk(directory: string): () => void {
  const file = `${directory}.img`;
  writeFileSync(file, '');
  truncateSync(file, diskBytes);
  execFileSync('mkfs.ext4', ['-q', '-E', 'lazy_itable_init=0,lazy_journal_init=0,nodiscard', file]);
  execFileSync('mount', ['-o', 'loop', file, directory]);
  return () => {
    // Lazy: also detaches mounts that a runtime left in it.
    execFileSync('umount', ['--lazy', directory]);
    rmSync(file);
    rmSync(directory, { recursive: true, force: true });
  };
}

async function measurePull(client: CriClient, pid: number, image: BenchImage): Promise<Pull> {
  // Flush earlier writes, so that they do not slow down this pull.
  execFileSync('sync');
  await sleep(300);
  touchMemory();
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  const cpuBefore = cpuMs(pid);
  const startedAt = performance.now();
  await pullImage(client, image);
  const wallMs = performance.now() - startedAt;
  return { wallMs, cpuMs: cpuMs(pid) - cpuBefore, peakKib: Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) };
}

/**
 * Makes the host back the guest's free memory. A virtual machine returns unused memory to its host; the next write to it includes the host's work, which
 * can double the kernel time of a pull. The kernel allocates recently freed pages first.
 */
function touchMemory(): void {
  execFileSync(process.execPath, ['-e', `Buffer.alloc(${touchedBytes}, 1)`]);
}

async function pullImage(client: CriClient, image: BenchImage): Promise<void> {
  await client.call('PullImage', { image: { image: `${registryHost}/${image.reference}` } }, 600_000);
}

/** Returns the CPU time of the process, its threads and the children that it waited for. Source: proc_pid_stat(5). */
function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((total, ticks) => total + Number(ticks) * tickMs, 0);
}

/** Reads from the daemon's log how each pull spent its time. */
function readTimings(logFile: string): string[] {
  const lines = readFileSync(logFile, 'utf8').split('\n');
  return lines.flatMap((line) => {
    if (!line.includes('image pulled')) return [];
    const { image, durationMs, ...rest } = JSON.parse(line) as Record<string, unknown>;
    return rest['spentMs'] === undefined ? [] : [`${String(image)}: ${String(durationMs)} ms, sum of all layers ${JSON.stringify(rest['spentMs'])}`];
  });
}

function print(results: Results, timings: readonly string[]): void {
  say(`medians of ${values.rounds} rounds; load average at the end ${loadavg()[0]?.toFixed(1)}`);
  const columns = ['wall ms', 'CPU ms', 'peak MiB'].flatMap((figure) => [
    ...runtimes.map((name) => `${name} ${figure}`),
    ...(runtimes.length > 1 ? ['ratio'] : []),
  ]);
  say(['image'.padEnd(26), ...columns.map((column) => column.padStart(20))].join(''));
  for (const [label, byRuntime] of results) {
    const cells = (['wallMs', 'cpuMs', 'peakKib'] as const).flatMap((key) => {
      const medians = runtimes.map(
        (name) =>
          percentile(
            (byRuntime.get(name) ?? []).map((pull) => pull[key]),
            50,
          ) / (key === 'peakKib' ? 1024 : 1),
      );
      return [...medians.map((median) => median.toFixed(0)), ...(medians.length > 1 ? [((medians[0] ?? 0) / (medians[1] ?? 0)).toFixed(2)] : [])];
    });
    say([label.padEnd(26), ...cells.map((cell) => cell.padStart(20))].join(''));
  }
  for (const line of timings.slice(-12)) say(line);
}

/** Starts the registry. Generates and pushes the images first if needed. @returns a function that stops the registry. */
async function serveImages(): Promise<() => void> {
  const generators = ['pull-images.ts', '../test/support/tar-maker.ts'].map((file) => readFileSync(join(import.meta.dirname, file)));
  const storeDir = join(workRoot, `store-${digestOf(Buffer.concat(generators)).slice(7, 19)}`);
  if (existsSync(storeDir)) return await startRegistry(storeDir);
  say('generating the images (first run only)');
  const unfinished = `${storeDir}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  const stop = await startRegistry(unfinished);
  const { base, same, other } = sharingImages();
  for (const image of [...benchImages(), base, same, other]) await push(image);
  stop();
  renameSync(unfinished, storeDir);
  return await startRegistry(storeDir);
}

async function startRegistry(storeDir: string): Promise<() => void> {
  mkdirSync(storeDir, { recursive: true });
  const configFile = '/run/bench-registry.yml';
  const head = 'version: 0.1\nlog: { level: error, accesslog: { disabled: true } }\n';
  writeFileSync(configFile, `${head}storage:\n  filesystem: { rootdirectory: ${storeDir} }\nhttp: { addr: '${registryHost}' }\n`);
  const registry = spawn('docker-registry', ['serve', configFile], { stdio: 'ignore' });
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const response = await fetch(`http://${registryHost}/v2/`).catch(() => null);
    if (response?.ok) return () => void registry.kill('SIGKILL');
    await sleep(100);
  }
  throw new Error(`docker-registry did not start on ${registryHost}`);
}

async function push(image: BenchImage): Promise<void> {
  const [repository = '', tag = ''] = image.reference.split(':');
  const layers: { mediaType: string; digest: string; size: number }[] = [];
  const diffIds: string[] = [];
  for (const layer of image.layers) {
    const { blob, digest, diffId, mediaType } = makeLayer(layer);
    await pushBlob(repository, blob, digest);
    layers.push({ mediaType, digest, size: blob.length });
    diffIds.push(diffId);
  }
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const config = Buffer.from(JSON.stringify({ architecture, os: 'linux', config: { Cmd: ['true'] }, rootfs: { type: 'layers', diff_ids: diffIds } }));
  await pushBlob(repository, config, digestOf(config));
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const configDescriptor = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf(config), size: config.length };
  const body = JSON.stringify({ schemaVersion: 2, mediaType, config: configDescriptor, layers });
  await requireOk(fetch(`http://${registryHost}/v2/${repository}/manifests/${tag}`, { method: 'PUT', body, headers: { 'content-type': mediaType } }));
}

async function pushBlob(repository: string, blob: Buffer, digest: string): Promise<void> {
  const url = `http://${registryHost}/v2/${repository}/blobs/uploads/`;
  const upload = await requireOk(fetch(url, { method: 'POST' }));
  const location = new URL(upload.headers.get('location') ?? '', url);
  location.searchParams.set('digest', digest);
  await requireOk(fetch(location, { method: 'PUT', body: new Uint8Array(blob), headers: { 'content-type': 'application/octet-stream' } }));
}

async function requireOk(pending: Promise<Response>): Promise<Response> {
  const response = await pending;
  if (!response.ok) throw new Error(`${response.url}: status ${response.status} ${await response.text()}`);
  return response;
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
