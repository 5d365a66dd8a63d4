/**
 * Starts the daemon in a test's own directories, and finds what it and its pods leave behind. A test can kill and restart the daemon.
 *
 * Call enterIsolation() first: then all processes and mounts belong to the test.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from '../../../scripts/cri-client.ts';
import { cgroupDirectories, removeCgroup } from '../../support/cgroups.ts';

const program = resolve(import.meta.dirname, '../../../bin/berth');
export const isBuilt = existsSync(resolve(import.meta.dirname, '../../../dist/berth.mjs'));

/** The directories, files and cgroup of a daemon. */
export type Workspace = {
  readonly directory: string;
  readonly state: string;
  readonly root: string;
  readonly socket: string;
  readonly logFile: string;
  /** Name of the parent of all cgroups, without a slash. */
  readonly cgroup: string;
  readonly remove: () => Promise<void>;
};

export type Daemon = {
  readonly client: CriClient;
  readonly pid: number;
  /** Sends the signal and waits until the daemon exits. @returns the exit code, or null if the signal killed it. */
  readonly end: (signal: 'SIGKILL' | 'SIGTERM') => Promise<number | null>;
};

/** Creates the directories and the configuration of a daemon. */
export function createWorkspace(): Workspace {
  const directory = mkdtempSync('/var/tmp/berth-daemon-');
  const at = (name: string) => join(directory, name);
  const state = `/run/${directory.slice('/var/tmp/'.length)}`;
  const cgroup = `${directory.slice('/var/tmp/'.length)}-${Date.now().toString(36)}`;
  for (const path of [state, at('root'), at('net.d'), at('leases')]) mkdirSync(path);
  const ipam = { type: 'host-local', dataDir: at('leases'), ranges: [[{ subnet: '10.77.0.0/16' }]] };
  const plugins = [
    { type: 'bridge', bridge: 'berth-kill0', isGateway: true, ipam },
    { type: 'portmap', capabilities: { portMappings: true } },
  ];
  writeFileSync(at('net.d/10-test.conflist'), JSON.stringify({ cniVersion: '1.0.0', name: 'kill', plugins }));
  writeFileSync(at('config.toml'), `cgroup_parent = "/${cgroup}"\nnetns_dir = "${state}/netns"\n`);
  const remove = async () => {
    await removeCgroup(cgroup);
    rmSync(directory, { recursive: true, force: true });
  };
  return { directory, state, root: at('root'), socket: `${state}/berth.sock`, logFile: at('daemon.log'), cgroup, remove };
}

/** Returns the arguments of `berth serve`. @param changes flags by name, which override the default ones. */
export function serveArguments(workspace: Workspace, changes: Readonly<Record<string, string>> = {}): string[] {
  const flags = {
    config: join(workspace.directory, 'config.toml'),
    socket: workspace.socket,
    root: workspace.root,
    state: workspace.state,
    'cni-conf-dir': join(workspace.directory, 'net.d'),
    metrics: 'off',
    'log-level': 'info',
    ...changes,
  };
  return ['serve', ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value])];
}

/**
 * Starts the daemon and waits until it serves.
 *
 * @param changes flags by name, which override the default ones.
 * @param wrapper a program with arguments that executes the daemon.
 * @throws Error with the daemon's log if it exits or does not serve within 30 s.
 */
export async function startDaemon(
  workspace: Workspace,
  changes: Readonly<Record<string, string>> = {},
  wrapper: readonly string[] = [],
): Promise<Daemon> {
  const log = openSync(workspace.logFile, 'a');
  const [command = program, ...args] = [...wrapper, program, ...serveArguments(workspace, changes)];
  const child = spawn(command, args, { stdio: ['ignore', log, log] });
  const exited = new Promise<number | null>((settle) => child.once('exit', settle));
  for (let waits = 0; !(await accepts(workspace.socket)); waits += 1) {
    if (waits > 600 || child.exitCode !== null) throw new Error(`the daemon did not start:\n${readFileSync(workspace.logFile, 'utf8')}`);
    await sleep(50);
  }
  const client = connectCri(`unix://${workspace.socket}`);
  const end = async (signal: 'SIGKILL' | 'SIGTERM') => {
    child.kill(signal);
    const code = await exited;
    client.close();
    return code;
  };
  return { client, pid: child.pid as number, end };
}

/** Runs a `berth` command until it exits. It is killed after 30 s. */
export async function runBerth(args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }> {
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  const code = await new Promise<number | null>((settle) => child.once('close', settle));
  clearTimeout(timer);
  return { code, output };
}

function accepts(socket: string): Promise<boolean> {
  return new Promise((settle) => {
    const connection = connect(socket);
    connection.once('error', () => settle(false));
    connection.once('connect', () => {
      connection.destroy();
      settle(true);
    });
  });
}

/** Returns everything that pods can leave behind. Waits up to 2 s for exiting processes. */
export async function findLeftovers(workspace: Workspace, daemon?: Daemon): Promise<Record<string, readonly string[]>> {
  const others = () => otherProcesses().filter(({ pid }) => pid !== daemon?.pid);
  for (let waits = 0; waits < 100 && others().length > 0; waits += 1) await sleep(20);
  const below = (path: string) => (existsSync(path) ? readdirSync(path).sort() : []);
  const lines = (command: string, ...args: string[]) => execFileSync(command, args, { encoding: 'utf8' }).trim().split('\n');
  return {
    processes: others().map(({ command }) => command),
    mounts: readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .sort(),
    interfaces: lines('ip', '-o', 'link').map((line) => line.split(': ')[1] ?? ''),
    rules: ['nat', 'filter'].flatMap((table) => lines('iptables', '-w', '-t', table, '-S')),
    leases: below(join(workspace.directory, 'leases/kill')).filter((name) => /^\d/.test(name)),
    cgroups: cgroupDirectories(workspace.cgroup).flatMap((path) =>
      readdirSync(path, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? [each.name] : [])),
    ),
    sandboxes: below(join(workspace.state, 'sandboxes')),
    containers: below(join(workspace.state, 'containers')),
    namespaces: below(join(workspace.state, 'netns')),
    roots: below(join(workspace.root, 'containers')),
    attachments: below(join(workspace.root, 'cni/results')),
  };
}

/** Returns the processes in this pid namespace except the test: the daemon, monitors and containers. */
function otherProcesses(): { readonly pid: number; readonly command: string }[] {
  const pids = readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));
  return pids.map((pid) => ({ pid, command: commandOf(pid) })).filter(({ pid, command }) => pid !== process.pid && command !== '' && pid !== 1);
}

/** Returns the command line, or '' for a zombie. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
