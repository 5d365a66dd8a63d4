/**
 * The real daemon in directories of its own, which a test can kill and start again; and what it and its pods leave on the machine.
 *
 * Belongs inside isolation.ts: every process and every mount there is the test's.
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

export type Place = {
  readonly directory: string;
  readonly state: string;
  readonly root: string;
  readonly socket: string;
  readonly logFile: string;
  /** Name of the cgroup that holds all others, without a slash. */
  readonly cgroup: string;
  readonly remove: () => Promise<void>;
};

export type Daemon = {
  readonly client: CriClient;
  readonly pid: number;
  /** Sends the signal and waits for the end. @returns the exit code, null when it ended by the signal. */
  readonly end: (signal: 'SIGKILL' | 'SIGTERM') => Promise<number | null>;
};

export function makePlace(): Place {
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

/** The arguments of `berth serve` for a place; later ones win. @param changes flags by name. */
export function serveArguments(place: Place, changes: Readonly<Record<string, string>> = {}): string[] {
  const flags = {
    config: join(place.directory, 'config.toml'),
    socket: place.socket,
    root: place.root,
    state: place.state,
    'cni-conf-dir': join(place.directory, 'net.d'),
    metrics: 'off',
    'log-level': 'info',
    ...changes,
  };
  return ['serve', ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value])];
}

/** @throws Error with the daemon's log when it ends, or does not answer within 30 s. */
export async function startDaemon(place: Place, changes: Readonly<Record<string, string>> = {}): Promise<Daemon> {
  const log = openSync(place.logFile, 'a');
  const child = spawn(program, serveArguments(place, changes), { stdio: ['ignore', log, log] });
  const ended = new Promise<number | null>((settle) => child.once('exit', settle));
  for (let waits = 0; !(await answers(place.socket)); waits += 1) {
    if (waits > 600 || child.exitCode !== null) throw new Error(`the daemon does not serve:\n${readFileSync(place.logFile, 'utf8')}`);
    await sleep(50);
  }
  const client = connectCri(`unix://${place.socket}`);
  const end = async (signal: 'SIGKILL' | 'SIGTERM') => {
    child.kill(signal);
    const code = await ended;
    client.close();
    return code;
  };
  return { client, pid: child.pid as number, end };
}

/** Runs `berth` to its end. */
export async function runBerth(args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }> {
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  const code = await new Promise<number | null>((settle) => child.once('close', settle));
  clearTimeout(timer);
  return { code, output };
}

function answers(socket: string): Promise<boolean> {
  return new Promise((settle) => {
    const connection = connect(socket);
    connection.once('error', () => settle(false));
    connection.once('connect', () => {
      connection.destroy();
      settle(true);
    });
  });
}

/** All that pods can leave behind. Waits a moment for what is just ending. */
export async function tracesOf(place: Place, daemon?: Daemon): Promise<Record<string, readonly string[]>> {
  const others = () => strangers().filter(({ pid }) => pid !== daemon?.pid);
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
    leases: below(join(place.directory, 'leases/kill')).filter((name) => /^\d/.test(name)),
    cgroups: cgroupDirectories(place.cgroup).flatMap((path) =>
      readdirSync(path, { withFileTypes: true }).flatMap((each) => (each.isDirectory() ? [each.name] : [])),
    ),
    sandboxes: below(join(place.state, 'sandboxes')),
    containers: below(join(place.state, 'containers')),
    namespaces: below(join(place.state, 'netns')),
    roots: below(join(place.root, 'containers')),
    attachments: below(join(place.root, 'cni/results')),
  };
}

/** What runs in this pid namespace besides the tests: the daemon, monitors, containers. */
export function strangers(): { readonly pid: number; readonly command: string }[] {
  const pids = readdirSync('/proc').flatMap((name) => (/^\d+$/.test(name) ? [Number(name)] : []));
  return pids.map((pid) => ({ pid, command: commandOf(pid) })).filter(({ pid, command }) => pid !== process.pid && command !== '' && pid !== 1);
}

/** '' for a zombie. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
