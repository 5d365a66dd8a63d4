/**
 * Runs the probe in containers of every mode through a CRI socket: as first process, by ExecSync, by Exec with a terminal, and as hook of CDI devices.
 *
 * Call enterIsolation() first. The CDI file is in /run/cdi, where berth and containerd look for them by default.
 */
import { execFile, execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { CriClient, Message } from '../../scripts/cri-client.ts';
import { execInTerminal, type Pod, runPod } from '../root/support/pods.ts';
import { localhostProfile, type Mode, modes, modesWithHooks, resources } from './modes.ts';
import { sysctls } from './order.ts';
import { prepareProbe } from './prepare.ts';
import { normalise, parseRows, type Rows } from './rows.ts';

/** The probe, and what it is compared with on this machine. */
export type Prison = {
  /** Contains the probe and the results of hooks, and is readable for all users. */
  readonly directory: string;
  /** Raw rows outside of containers, and `sysctl.` rows. */
  readonly host: Rows;
  readonly end: () => void;
};

export type Prisoner = { readonly mode: Mode; readonly pod: Pod; readonly id: string; readonly neighbour: Rows; readonly first: Rows };

/** Pods at the same time: the probe waits for the kernel most of its time. */
const inFlight = 4;
/** For one call or one probe: an emulated machine needs more than a minute. */
const timeoutMs = 300_000;

/** Prepares the probe, makes all mounts shared as systemd does, listens on the abstract socket that containers look for, and probes the host. */
export async function openPrison(): Promise<Prison> {
  const directory = mkdtempSync('/var/tmp/berth-prison-');
  chmodSync(directory, 0o755);
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  copyFileSync(prepareProbe(), join(bin, 'probe'));
  writeFileSync(join(directory, 'profile.json'), JSON.stringify(localhostProfile));
  execFileSync('mount', ['--make-rshared', '/']);
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((settle) => server.listen('\0berth-prison', settle));
  // Not synchronously: it connects to the socket of this process.
  const { stdout } = await promisify(execFile)(join(bin, 'probe'), [], { maxBuffer: 1 << 22 });
  writeDevices(directory);
  const end = () => {
    server.close();
    rmSync('/run/cdi/prison.json', { force: true });
    rmSync(directory, { recursive: true, force: true });
  };
  const settings = sysctls.map((name): [string, string] => [`sysctl.${name}`, readSysctl(name)]);
  return { directory, host: new Map([...parseRows(stdout), ...settings]), end };
}

function readSysctl(name: string): string {
  const path = `/proc/sys/${name}`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : 'missing';
}

/** A CDI device for each mode with hooks. The results are files that root of a user namespace can write. */
function writeDevices(directory: string): void {
  const path = join(directory, 'bin/probe');
  const devices = modesWithHooks.map((name) => {
    const hook = (hookName: string, kind: string) => {
      const file = join(directory, `${name}-${kind}`);
      writeFileSync(file, '');
      chmodSync(file, 0o666);
      return { hookName, path, args: ['probe', '-o', file] };
    };
    return { name, containerEdits: { hooks: [hook('createRuntime', 'hook-runtime'), hook('createContainer', 'hook-container')] } };
  });
  mkdirSync('/run/cdi', { recursive: true });
  writeFileSync('/run/cdi/prison.json', JSON.stringify({ cdiVersion: '0.6.0', kind: 'berth.test/prison', devices }));
}

const patient = (client: CriClient): CriClient => ({ ...client, call: (method, request) => client.call(method, request, timeoutMs) });

/** Starts a container of every mode. @param linux of every pod, such as its cgroup parent. */
export async function startPrisoners(client: CriClient, image: string, prison: Prison, linux: Message): Promise<Prisoner[]> {
  return inParallel(modes, (mode) => startPrisoner(patient(client), image, prison, mode, linux));
}

async function startPrisoner(client: CriClient, image: string, prison: Prison, mode: Mode, linux: Message): Promise<Prisoner> {
  const namespace_options = { pid: 'CONTAINER', ...mode.namespaces };
  const sandboxSecurity = { namespace_options, privileged: mode.isPrivileged === true };
  const isBare = mode.security === undefined;
  const isHostNetwork = mode.namespaces?.['network'] === 'NODE';
  const pod = await runPod(client, mode.name, prison.directory, {
    hostname: isHostNetwork ? '' : mode.name,
    linux: { ...linux, ...(isBare ? {} : { security_context: sandboxSecurity }) },
  });
  const security = mode.security?.({ profile: join(prison.directory, 'profile.json') });
  const neighbourId = await startContainer(client, pod, image, prison, 'neighbour', ['/prison/probe', '-p', '-w'], {
    linux: { resources, ...(security ? { security_context: { ...security, namespace_options } } : {}) },
  });
  const options = mode.isTargeting ? { pid: 'TARGET', target_id: neighbourId } : namespace_options;
  const id = await startContainer(client, pod, image, prison, 'main', ['/prison/probe', '-w'], {
    linux: { resources, ...(security ? { security_context: { ...security, namespace_options: options } } : {}) },
    tty: mode.hasTerminal === true,
    ...(modesWithHooks.includes(mode.name) ? { CDI_devices: [{ name: `berth.test/prison=${mode.name}` }] } : {}),
  });
  return { mode, pod, id, neighbour: await rowsInLog(pod, 'neighbour'), first: await rowsInLog(pod, 'main') };
}

async function startContainer(client: CriClient, pod: Pod, image: string, { directory }: Prison, name: string, command: string[], changes: Message) {
  const mounts = [{ host_path: join(directory, 'bin'), container_path: '/prison', readonly: true }];
  const config = { metadata: { name, attempt: 0 }, image: { image }, command, log_path: `${name}.log`, mounts, ...changes };
  const creation = { pod_sandbox_id: pod.id, config, sandbox_config: pod.config };
  const { container_id } = await client.call<{ container_id: string }>('CreateContainer', creation);
  await client.call('StartContainer', { container_id });
  return container_id;
}

async function rowsInLog(pod: Pod, name: string): Promise<Rows> {
  const file = join(pod.logDirectory, `${name}.log`);
  const deadline = Date.now() + timeoutMs;
  while (!/ end 1\r?\n/.test(readFileSync(file, 'utf8'))) {
    if (Date.now() > deadline) throw new Error(`${file} is not complete after ${timeoutMs} ms`);
    await sleep(50);
  }
  // Of any runtime: containerd shortens the fraction of its times.
  return parseRows(readFileSync(file, 'utf8').replaceAll(/^\S+ stdout F /gm, ''));
}

/** Returns the normalised rows by place: `mode/process`. @param isRepeated only processes that can be started again in a running container. */
export async function questionPrisoners(
  client: CriClient,
  prisoners: readonly Prisoner[],
  prison: Prison,
  isRepeated = false,
): Promise<Map<string, Rows>> {
  const places = new Map<string, Rows>();
  await inParallel(prisoners, async ({ mode, id, neighbour, first }) => {
    const add = (kind: string, rows: Rows) =>
      places.set(`${mode.name}/${kind}`, normalise(rows, { host: prison.host, neighbour }, kind.startsWith('hook')));
    if (!isRepeated) add('first', first);
    add('exec', parseRows(await execSync(client, id, ['/prison/probe'])));
    add('terminal', parseRows(await execInTerminal(client, id, ['/prison/probe'], timeoutMs)));
    if (isRepeated || !modesWithHooks.includes(mode.name)) return;
    for (const kind of ['hook-runtime', 'hook-container']) add(kind, parseRows(readFileSync(join(prison.directory, `${mode.name}-${kind}`), 'utf8')));
  });
  return new Map([...places].sort());
}

async function execSync(client: CriClient, container_id: string, cmd: readonly string[]): Promise<string> {
  const { stdout } = await client.call<{ stdout: Buffer }>('ExecSync', { container_id, cmd, timeout: String(timeoutMs / 1000) }, timeoutMs);
  return stdout.toString();
}

/** Removes the pods with their containers. */
export async function releasePrisoners(client: CriClient, prisoners: readonly Prisoner[]): Promise<void> {
  await inParallel(prisoners, async ({ pod }) => {
    for (const method of ['StopPodSandbox', 'RemovePodSandbox']) await client.call(method, { pod_sandbox_id: pod.id }, timeoutMs);
  });
}

/** Calls the function for each item, a few at a time. @returns the results in the order of the items. */
async function inParallel<Item, Result>(items: readonly Item[], run: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results = new Map<Item, Result>();
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) results.set(item, await run(item));
  };
  await Promise.all(Array.from({ length: inFlight }, worker));
  return items.map((item) => results.get(item) as Result);
}
