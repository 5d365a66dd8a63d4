/**
 * Starts a CRI runtime with its own directories: berth, or containerd for comparison.
 *
 * Call enterIsolation() first. The runtime's socket and state are under /run, which is private then; its images are in the given work directory.
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
  /** berth re-reads some of its settings on SIGHUP. */
  readonly configFile: string;
  /** Stops the daemon and removes its cgroups. */
  readonly stop: () => Promise<void>;
};

export type RuntimeOptions = {
  /** Absolute path, on a file system that can be the upper layer of overlayfs. */
  readonly workDir: string;
  /** Mirror of all mirroredHosts, for example `http://127.0.0.1:5000`. Default: no mirror. */
  readonly mirrorUrl?: string;
  /** Lines for the configuration file of berth. */
  readonly settings?: string;
};

/** Registries whose images are pulled from the mirror. */
const mirroredHosts = ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io', 'public.ecr.aws', '127.0.0.1:5000'];

/** Directory in which test/critest/prepare.ts installs containerd and runc. */
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

/** Starts a runtime and waits until it serves. @throws Error with the end of its log if it exits or does not serve in time. */
export async function startRuntime(name: RuntimeName, options: RuntimeOptions): Promise<Runtime> {
  const layout = prepareLayout(name, options);
  const logFile = join(options.workDir, `${name}.log`);
  const [command = '', ...args] = name === 'berth' ? berthCommand(layout, options.settings ?? '') : containerdCommand(layout);
  const log = openSync(logFile, 'a');
  const child = spawn(command, args, { stdio: ['ignore', log, log], env: { ...process.env, PATH: `${peerDir}:${process.env['PATH']}` } });
  const failure = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(new Error(`start ${command}: ${error.message}`)));
    child.once('exit', (code, signal) => reject(new Error(`${name} exited (${code ?? signal}):\n${tail(logFile)}`)));
  });
  failure.catch(() => undefined);
  await Promise.race([failure, waitForSocket(layout.socket)]);
  const stop = async () => {
    await stopProcess(child);
    // The parent cgroup of containerd cannot be configured.
    await removeCgroup(name === 'containerd' ? 'k8s.io' : layout.cgroupParent.slice(1));
  };
  return { endpoint: `unix://${layout.socket}`, pid: child.pid ?? 0, logFile, configFile: layout.configFile, stop };
}

/** Returns the last lines of a log file. */
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

async function waitForSocket(socket: string): Promise<void> {
  const deadline = Date.now() + startTimeoutMs;
  while (Date.now() < deadline) {
    const isOpen = await new Promise<boolean>((settle) => {
      const connection = connect(socket, () => settle(true)).once('error', () => settle(false));
      connection.once('connect', () => connection.destroy());
    });
    if (isOpen) return;
    await sleep(100);
  }
  throw new Error(`${socket} does not accept connections after ${startTimeoutMs} ms`);
}

async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((settle) => child.once('exit', settle));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
  await exited;
  clearTimeout(timer);
}
