/**
 * `npm start`: starts the daemon with default settings, runs a sample pod, serves until Ctrl-C, and removes everything it created.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from './cri-client.ts';
import { serveRegistry } from './mini-registry.ts';
import { recordNetworkState } from './network-leftovers.ts';
import { buildSampleImage } from './sample-image.ts';

const repository = resolve(import.meta.dirname, '..');
const state = '/run/berth';
const root = '/var/lib/berth';
/** The default of the setting netns_dir. */
const netnsDir = '/run/netns';
const socket = `${state}/berth.sock`;
const logDirectory = '/var/log/pods/sample';
const metadata = { name: 'sample', namespace: 'default', uid: 'sample-of-npm-start', attempt: 0 };
const containerMetadata = { name: 'hello', attempt: 0 };

type Sample = { readonly sandboxId: string; readonly image: string };

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`npm start: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) throw new Error('must run as root');
  if (await accepts(socket)) throw new Error(`another runtime is listening on ${socket}: stop it first`);
  const stopRequested = new Promise<void>((settle) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => settle());
  });
  const cleanUp = recordMachineState();
  let daemon: ChildProcess | undefined;
  try {
    daemon = await startDaemon();
    const client = connectCri(`unix://${socket}`);
    const sample = await Promise.race([runSample(client), stopRequested.then(() => undefined)]);
    if (sample) say(`\nberth is serving on unix://${socket}. Press Ctrl-C to stop.\nTry: crictl --runtime-endpoint unix://${socket} pods`);
    await Promise.race([stopRequested, new Promise((settle) => daemon?.once('exit', settle))]);
    const hasCrashed = daemon.exitCode !== null;
    if (hasCrashed) say(`the daemon exited with code ${daemon.exitCode}; log: ${join(repository, 'build/berth.log')}`);
    else await removeSample(client, sample);
    client.close();
    return hasCrashed ? 1 : 0;
  } finally {
    if (daemon) await stopDaemon(daemon);
    cleanUp();
  }
}

/** Records the state of the machine. @returns a function that removes directories, cgroups and network state that did not exist before. */
function recordMachineState(): () => void {
  const paths = [root, state, '/var/log/pods', logDirectory];
  const hadNetns = existsSync(netnsDir);
  const missing = paths.filter((path) => !existsSync(path));
  const restoreNetwork = recordNetworkState(defaultNetwork());
  return () => {
    for (const path of missing) rmSync(path, { recursive: true, force: true });
    restoreNetwork();
    for (const directory of [...ownCgroups(), ...(hadNetns ? [] : [netnsDir])]) {
      try {
        rmdirSync(directory);
      } catch {
        // It does not exist, or it is not empty and thus in use by others.
      }
    }
  };
}

function defaultNetwork(): { network: string; bridge: string } {
  const text = readFileSync(join(repository, 'deploy/10-berth.conflist'), 'utf8');
  const conflist = JSON.parse(text) as { name: string; plugins: { bridge?: string }[] };
  return { network: conflist.name, bridge: conflist.plugins.find((plugin) => plugin.bridge !== undefined)?.bridge ?? '' };
}

function ownCgroups(): string[] {
  const top = '/sys/fs/cgroup';
  const hierarchies = existsSync(join(top, 'cgroup.procs')) ? [top] : readdirSync(top).map((name) => join(top, name));
  return hierarchies.map((hierarchy) => join(hierarchy, 'berth')).filter((path) => existsSync(path));
}

async function startDaemon(): Promise<ChildProcess> {
  mkdirSync(join(repository, 'build'), { recursive: true });
  const logFile = join(repository, 'build/berth.log');
  const log = openSync(logFile, 'w');
  // In a separate session: Ctrl-C must not reach the daemon before the sample pod is removed.
  const daemon = spawn(join(repository, 'bin/berth'), ['serve', ...networkFlags()], { stdio: ['ignore', log, log], detached: true });
  const failure = new Promise<never>((_, reject) => {
    daemon.once('error', reject);
    daemon.once('exit', (code) => reject(new Error(`the daemon exited with code ${code}:\n${readFileSync(logFile, 'utf8')}`)));
  });
  failure.catch(() => undefined);
  await Promise.race([failure, waitForSocket()]);
  say(`berth started (pid ${daemon.pid}), log: ${logFile}`);
  return daemon;
}

/** Uses the node's CNI configuration if it has one, else the sample configuration from a directory outside /etc. */
function networkFlags(): string[] {
  const defaultDir = '/etc/cni/net.d';
  const isConfigured = existsSync(defaultDir) && readdirSync(defaultDir).some((name) => /\.(conf|conflist|json)$/.test(name));
  if (isConfigured) return [];
  const directory = join(state, 'net.d');
  mkdirSync(directory, { recursive: true });
  copyFileSync(join(repository, 'deploy/10-berth.conflist'), join(directory, '10-berth.conflist'));
  return ['--cni-conf-dir', directory];
}

async function runSample(client: CriClient): Promise<Sample> {
  const registry = await serveRegistry(new Map([['berth/sample:1', await buildSampleImage()]]));
  const image = `${registry.host}/berth/sample:1`;
  try {
    await client.call('PullImage', { image: { image } });
  } finally {
    registry.stop();
  }
  say(`pulled ${image}`);
  const sandbox = { metadata, hostname: 'sample', log_directory: logDirectory, linux: {} };
  const { pod_sandbox_id: sandboxId } = await client.call<{ pod_sandbox_id: string }>('RunPodSandbox', { config: sandbox });
  const { status } = await client.call<{ status: { network: { ip: string } } }>('PodSandboxStatus', { pod_sandbox_id: sandboxId });
  say(`pod ${sandboxId.slice(0, 12)} is running, IP ${status.network.ip}`);
  const command = ['sh', '-c', 'echo "hello from $(hostname)"; trap exit TERM; while true; do sleep 1; done'];
  const config = { metadata: containerMetadata, image: { image }, command, log_path: 'hello.log', linux: {} };
  const creation = { pod_sandbox_id: sandboxId, config, sandbox_config: sandbox };
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', creation);
  await client.call('StartContainer', { container_id });
  say(`log:  ${await firstLogLine()}`);
  const exec = { container_id, cmd: ['uname', '-sr'], timeout: '10' };
  const { stdout, exit_code } = await client.call<{ stdout: Buffer; exit_code: number }>('ExecSync', exec);
  say(`exec: uname -sr: ${stdout.toString().trim()} (exit code ${exit_code})`);
  return { sandboxId, image };
}

async function firstLogLine(): Promise<string> {
  const file = join(logDirectory, 'hello.log');
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
    if (text.includes('\n')) return text.split('\n', 1)[0] ?? '';
    await sleep(100);
  }
  throw new Error(`no log line in ${file} after 10 s`);
}

/** Removes all sandboxes with the sample's uid: an interrupted start does not return an id. */
async function removeSample(client: CriClient, sample: Sample | undefined): Promise<void> {
  say('\nremoving the sample pod');
  const { items } = await client.call<{ items: { id: string; metadata: { uid: string } }[] }>('ListPodSandbox', {});
  const ours = items.filter((item) => item.metadata.uid === metadata.uid);
  for (const { id } of ours) {
    await client.call('StopPodSandbox', { pod_sandbox_id: id });
    await client.call('RemovePodSandbox', { pod_sandbox_id: id });
  }
  if (sample) await client.call('RemoveImage', { image: { image: sample.image } });
}

async function stopDaemon(daemon: ChildProcess): Promise<void> {
  if (daemon.pid === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
  const exited = new Promise((settle) => daemon.once('exit', settle));
  daemon.kill('SIGTERM');
  const timer = setTimeout(() => daemon.kill('SIGKILL'), 20_000);
  await exited;
  clearTimeout(timer);
  // A killed daemon leaves mounts below its directories.
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '');
  const ours = mounts.filter((path) => path.startsWith(`${state}/`) || path.startsWith(`${root}/`));
  for (const path of ours.reverse()) spawnSync('umount', ['--lazy', path]);
}

async function waitForSocket(): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (await accepts(socket)) return;
    await sleep(100);
  }
  throw new Error(`${socket} does not accept connections after 30 s`);
}

function accepts(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const connection = connect(path);
    connection.once('error', () => settle(false));
    connection.once('connect', () => {
      connection.destroy();
      settle(true);
    });
  });
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
