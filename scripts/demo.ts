/**
 * `npm start`: runs the daemon with its defaults, shows a sample pod working, serves until Ctrl-C, and leaves nothing of itself behind.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from './cri-client.ts';
import { serveRegistry } from './mini-registry.ts';
import { recordNetworkTraces } from './network-traces.ts';
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
  if (process.getuid?.() !== 0) throw new Error('a container runtime needs root: run as root');
  if (await accepts(socket)) throw new Error(`a runtime already answers on ${socket}: stop it first`);
  const wasStopped = new Promise<void>((settle) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => settle());
  });
  const cleanUp = recordTraces();
  let daemon: ChildProcess | undefined;
  try {
    daemon = await startDaemon();
    const client = connectCri(`unix://${socket}`);
    const sample = await Promise.race([runSample(client), wasStopped.then(() => undefined)]);
    if (sample) say(`\nberth serves on unix://${socket}; Ctrl-C ends it. Try: crictl --runtime-endpoint unix://${socket} pods`);
    await Promise.race([wasStopped, new Promise((settle) => daemon?.once('exit', settle))]);
    const diedAlone = daemon.exitCode !== null;
    if (diedAlone) say(`the daemon ended with exit code ${daemon.exitCode}; its log: ${join(repository, 'build/berth.log')}`);
    else await removeSample(client, sample);
    client.close();
    return diedAlone ? 1 : 0;
  } finally {
    if (daemon) await endDaemon(daemon);
    cleanUp();
  }
}

/** @returns what removes the directories, cgroups and network parts that were not there before. */
function recordTraces(): () => void {
  const paths = [root, state, '/var/log/pods', logDirectory];
  const hadNetns = existsSync(netnsDir);
  const missing = paths.filter((path) => !existsSync(path));
  const restoreNetwork = recordNetworkTraces(defaultNetwork());
  return () => {
    for (const path of missing) rmSync(path, { recursive: true, force: true });
    restoreNetwork();
    for (const directory of [...ownCgroups(), ...(hadNetns ? [] : [netnsDir])]) {
      try {
        rmdirSync(directory);
      } catch {
        // Absent, or not empty: then it is in use by others.
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
  // A session of its own: Ctrl-C must not reach it before the sample is gone.
  const daemon = spawn(join(repository, 'bin/berth'), ['serve', ...networkFlags()], { stdio: ['ignore', log, log], detached: true });
  const ended = new Promise<never>((_, reject) => {
    daemon.once('error', reject);
    daemon.once('exit', (code) => reject(new Error(`the daemon ended with exit code ${code}:\n${readFileSync(logFile, 'utf8')}`)));
  });
  ended.catch(() => undefined);
  await Promise.race([ended, waitForSocket()]);
  say(`berth is up (pid ${daemon.pid}), log in ${logFile}`);
  return daemon;
}

/** A node without a network configuration gets berth's own, which stays out of /etc. */
function networkFlags(): string[] {
  const usual = '/etc/cni/net.d';
  const hasOwn = existsSync(usual) && readdirSync(usual).some((name) => /\.(conf|conflist|json)$/.test(name));
  if (hasOwn) return [];
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
  say(`pod ${sandboxId.slice(0, 12)} runs, IP ${status.network.ip}`);
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
  throw new Error(`nothing was logged to ${file} within 10 s`);
}

/** Also after a start that was cut short: then what is found by the sample's uid goes. */
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

async function endDaemon(daemon: ChildProcess): Promise<void> {
  if (daemon.pid === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
  const ended = new Promise((settle) => daemon.once('exit', settle));
  daemon.kill('SIGTERM');
  const timer = setTimeout(() => daemon.kill('SIGKILL'), 20_000);
  await ended;
  clearTimeout(timer);
  // What a daemon that was killed left mounted below its directories.
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
  throw new Error(`${socket} did not answer within 30 s`);
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
