/**
 * Starts a CRI runtime with directories of its own: berth, or containerd to hold berth against.
 *
 * Belongs inside isolation.ts. The runtime's socket and state lie under /run, which is private there; its images under the given work directory.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeCgroup } from './cgroups.ts';

export type RuntimeName = 'berth' | 'containerd';

export type Runtime = {
  /** `unix:///...`. */
  readonly endpoint: string;
  readonly pid: number;
  readonly logFile: string;
  /** As it was written; berth reads some of it again on SIGHUP. */
  readonly configFile: string;
  /** Ends the daemon and removes its cgroups. */
  readonly stop: () => Promise<void>;
};

export type RuntimeOptions = {
  /** Absolute; on a file system that can be an overlay's upper layer. */
  readonly workDir: string;
  /** Registry that every host name is mapped to, e.g. `http://127.0.0.1:5000`; undefined: no mirrors. */
  readonly mirrorUrl?: string;
  /** Of berth: lines of its configuration file. */
  readonly settings?: string;
};

/** Hosts whose images come from the mirror. */
const mirroredHosts = ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io', 'public.ecr.aws', '127.0.0.1:5000'];

/** Where test/critest/prepare.ts puts containerd and runc. */
export const peerDir = resolve(import.meta.dirname, '../../build/peer');

const startTimeoutMs = 60_000;
const stopTimeoutMs = 20_000;

type Layout = {
  readonly socket: string;
  readonly root: string;
  readonly state: string;
  readonly cniConfDir: string;
  readonly registryDir: string;
  readonly cgroupParent: string;
  readonly configFile: string;
};

/** @throws Error with the end of the daemon's log when its socket does not answer in time. */
export async function startRuntime(name: RuntimeName, options: RuntimeOptions): Promise<Runtime> {
  const layout = prepareLayout(name, options);
  const logFile = join(options.workDir, `${name}.log`);
  const [command = '', ...args] = name === 'berth' ? berthCommand(layout, options.settings ?? '') : containerdCommand(layout);
  const log = openSync(logFile, 'a');
  const child = spawn(command, args, { stdio: ['ignore', log, log], env: { ...process.env, PATH: `${peerDir}:${process.env['PATH']}` } });
  const failure = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(new Error(`starting ${command}: ${error.message}`)));
    child.once('exit', (code, signal) => reject(new Error(`${name} ended (${code ?? signal}):\n${tail(logFile)}`)));
  });
  failure.catch(() => undefined);
  await Promise.race([failure, answers(layout.socket)]);
  const stop = async () => {
    await end(child);
    // containerd's parent cannot be chosen.
    await removeCgroup(name === 'containerd' ? 'k8s.io' : layout.cgroupParent.slice(1));
  };
  return { endpoint: `unix://${layout.socket}`, pid: child.pid ?? 0, logFile, configFile: layout.configFile, stop };
}

/** The last lines of a log file. */
export function tail(file: string, lines = 30): string {
  return readFileSync(file, 'utf8').split('\n').slice(-lines).join('\n');
}

function prepareLayout(name: RuntimeName, options: RuntimeOptions): Layout {
  const state = `/run/${name}-test`;
  const at = (part: string) => join(options.workDir, part);
  const cniConfDir = at('cni');
  const registryDir = at('certs.d');
  for (const directory of [state, cniConfDir, at('root')]) mkdirSync(directory, { recursive: true });
  writeFileSync(join(cniConfDir, '10-test.conflist'), conflist(at('addresses')));
  for (const host of options.mirrorUrl === undefined ? [] : mirroredHosts) {
    mkdirSync(join(registryDir, host), { recursive: true });
    const text = `server = "https://${host}"\n[host."${options.mirrorUrl}"]\n  capabilities = ["pull", "resolve"]\n`;
    writeFileSync(join(registryDir, host, 'hosts.toml'), text);
  }
  const cgroupParent = `/berth-test-${name}-${process.ppid}-${Date.now().toString(36)}`;
  return { socket: `${state}/cri.sock`, root: at('root'), state, cniConfDir, registryDir, cgroupParent, configFile: at(`${name}.toml`) };
}

function conflist(addressDir: string): string {
  const ipam = { type: 'host-local', dataDir: addressDir, ranges: [[{ subnet: '10.89.0.0/16' }]], routes: [{ dst: '0.0.0.0/0' }] };
  const bridge = { type: 'bridge', bridge: 'berthtest0', isGateway: true, ipMasq: true, hairpinMode: true, ipam };
  const plugins = [bridge, { type: 'portmap', capabilities: { portMappings: true } }];
  return JSON.stringify({ cniVersion: '1.0.0', name: 'berth-test', plugins }, null, 2);
}

function berthCommand(layout: Layout, settings: string): string[] {
  writeFileSync(layout.configFile, `cgroup_parent = "${layout.cgroupParent}"\n${settings}`);
  const flags = {
    config: layout.configFile,
    socket: layout.socket,
    root: layout.root,
    state: layout.state,
    'cni-conf-dir': layout.cniConfDir,
    'registry-dir': layout.registryDir,
  };
  const words = Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]);
  return [resolve(import.meta.dirname, '../../bin/berth'), 'serve', ...words];
}

function containerdCommand(layout: Layout): string[] {
  writeFileSync(
    layout.configFile,
    `version = 2
root = "${layout.root}"
state = "${layout.state}/state"
[grpc]
  address = "${layout.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.9"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${layout.cniConfDir}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "${layout.registryDir}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`,
  );
  return [join(peerDir, 'containerd'), '--config', layout.configFile];
}

async function answers(socket: string): Promise<void> {
  const deadline = Date.now() + startTimeoutMs;
  while (Date.now() < deadline) {
    const isOpen = await new Promise<boolean>((settle) => {
      const connection = connect(socket, () => settle(true)).once('error', () => settle(false));
      connection.once('connect', () => connection.destroy());
    });
    if (isOpen) return;
    await sleep(100);
  }
  throw new Error(`${socket} did not answer within ${startTimeoutMs} ms`);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((settle) => child.once('exit', settle));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
  await ended;
  clearTimeout(timer);
}
