/**
 * `berth doctor`: collects facts about the node, with the same probes as the daemon. Changes nothing; a daemon may be running.
 */
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import { openConfiguration } from '../cni/config.ts';
import { createProber } from '../cni/probe.ts';
import type { Config } from '../config.ts';
import { findCriu } from '../engine/checkpoint/criu.ts';
import { chooseCgroupDriver } from '../engine/lifecycle/cgroup-driver.ts';
import { probeUserNamespaces } from '../engine/lifecycle/pod-namespaces.ts';
import { openMonitorBinary } from '../engine/monitor/monitor.ts';
import { reasonOf } from '../lib/errors.ts';
import { createLog } from '../lib/log.ts';
import { probeCgroups } from '../sys/cgroup/cgroups.ts';
import { readQuotaState } from '../sys/filesystem/quota.ts';
import { probeHost } from '../sys/host.ts';
import { createLibseccomp } from '../sys/library/libseccomp.ts';
import { requireFuseOverlay } from '../sys/mount/fuse-overlay.ts';
import { diskSpace, hasModule, isClockSynchronized, missingSystemCalls, readSysctl } from '../sys/node-probes.ts';
import { findParser } from '../sys/process/apparmor.ts';
import { openKernelLog } from '../sys/process/kernel-log.ts';
import { hardLimit } from '../sys/process/limits.ts';
import { type Disk, diagnose, type NodeFacts, reportOf, type SysctlName, sysctlNames } from './doctor.ts';
import { kubeletSettings } from './kubelet-settings.ts';

/**
 * Checks the node. Needs root for most checks.
 *
 * @param monitorPath path of the monitor binary.
 * @param isJson returns the findings as a JSON array instead of text.
 */
export async function examineNode(
  config: Config,
  monitorPath: string,
  isJson: boolean,
): Promise<{ readonly report: string; readonly isBroken: boolean }> {
  const findings = diagnose(await factsOf(config, monitorPath));
  return { report: isJson ? JSON.stringify(findings, null, 2) : reportOf(findings), isBroken: findings.some(({ verdict }) => verdict === 'broken') };
}

const silent = createLog('silent');

async function factsOf(config: Config, monitorPath: string): Promise<NodeFacts> {
  const isRoot = process.getuid?.() === 0;
  const mounts = isRoot ? await mountFacts(config.root, monitorPath) : { overlayFailure: 'not root', userNamespaceFailure: 'not root' };
  const sysctls = Object.fromEntries(sysctlNames.map((name) => [name, readSysctl(name)])) as Record<SysctlName, string | null>;
  return {
    isRoot,
    arch: process.arch,
    kernel: release(),
    missingSystemCalls: missingSystemCalls(),
    ...mounts,
    requiresOverlay: config.snapshotter === 'overlay',
    cgroups: cgroupFacts(),
    cgroupDriver: await driverFacts(config),
    hasBridgeFilter: hasModule('br_netfilter'),
    libseccompFailure: libseccompFailure(),
    appArmor: { isEnabled: readText('/sys/module/apparmor/parameters/enabled').startsWith('Y'), hasParser: findParser() !== undefined },
    fuseFailure: config.snapshotter === 'fuse-overlayfs' ? await failureOf(requireFuseOverlay) : null,
    hasDiskQuotas: hasDiskQuotas(config.root),
    hasSwap: readText('/proc/swaps').trim().split('\n').length > 1,
    socket: config.socket,
    kubelet: kubeletSettings(readText('/var/lib/kubelet/config.yaml'), [readText('/var/lib/kubelet/kubeadm-flags.env'), ...kubeletFlags()].join(' ')),
    sysctls,
    network: { confDir: config.cniConfDir, binDirs: config.cniBinDirs, failure: await networkFailure(config) },
    disks: diskFacts(config),
    openFilesMax: hardLimit('NOFILE'),
    hasKernelLog: canReadKernelLog(),
    criuFailure: await criuFailure(),
    clock: { nowMs: Date.now(), isSynchronized: isClockSynchronized() },
  };
}

/** Mounts in a temporary directory below root, because overlayfs and ID-mapped mounts depend on the file system. */
async function mountFacts(root: string, monitorPath: string): Promise<Pick<NodeFacts, 'overlayFailure' | 'userNamespaceFailure'>> {
  const created = mkdirSync(root, { recursive: true, mode: 0o700 });
  const monitor = await openMonitorBinary(monitorPath);
  try {
    const { overlayFailure } = probeHost(root);
    return { overlayFailure, userNamespaceFailure: await probeUserNamespaces({ monitor }, root) };
  } finally {
    monitor.close();
    if (created !== undefined) rmSync(created, { recursive: true });
  }
}

function cgroupFacts(): NodeFacts['cgroups'] {
  try {
    const { version, controllers } = probeCgroups();
    return { version, controllers: [...controllers] };
  } catch (error) {
    return { failure: reasonOf(error) };
  }
}

/** Chooses the driver as the daemon does, and closes it at once. */
async function driverFacts({ cgroupDriver, cgroupParent }: Config): Promise<NodeFacts['cgroupDriver']> {
  try {
    const driver = await chooseCgroupDriver(cgroupDriver, probeCgroups(), { defaultParent: cgroupParent, prefix: 'cri-berth' }, silent);
    driver.close();
    return driver.name;
  } catch (error) {
    return { failure: reasonOf(error) };
  }
}

function libseccompFailure(): string | null {
  try {
    createLibseccomp().syscallNumber('read', 'x86_64');
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

async function failureOf(work: () => Promise<void>): Promise<string | null> {
  try {
    await work();
    return null;
  } catch (error) {
    return reasonOf(error);
  }
}

/** Checks the nearest existing parent directory. */
function hasDiskQuotas(path: string): boolean {
  if (!existsSync(path)) return path !== '/' && hasDiskQuotas(dirname(path));
  const fd = openSync(path, 'r');
  try {
    return readQuotaState(fd).isEnforced;
  } finally {
    closeSync(fd);
  }
}

/** Returns '' if the file cannot be read. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Returns the command lines of running kubelets. */
function kubeletFlags(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && readText(`/proc/${name}/comm`) === 'kubelet\n')
    .map((pid) => readText(`/proc/${pid}/cmdline`).replaceAll('\0', ' '));
}

async function criuFailure(): Promise<string | null> {
  const found = await findCriu({ program: 'criu', searchPath: process.env['PATH'] ?? '' });
  return 'lack' in found ? found.lack : null;
}

async function networkFailure({ cniConfDir, cniBinDirs }: Config): Promise<string | null> {
  const configuration = openConfiguration({ confDir: cniConfDir, log: silent, onChange: () => {} });
  try {
    const loaded = configuration.current();
    if (loaded.list === null) return loaded.reason;
    const prober = createProber({ binDirs: cniBinDirs, environment: [`PATH=${process.env['PATH'] ?? ''}`] });
    return (await prober.probe(loaded.list)).reason;
  } catch (error) {
    return reasonOf(error);
  } finally {
    configuration.close();
  }
}

function canReadKernelLog(): boolean {
  const kernelLog = openKernelLog();
  kernelLog?.close();
  return kernelLog !== null;
}

function diskFacts({ root, state }: Config): Disk[] {
  return Object.entries({ root, state }).map(([name, path]) => ({ name, path, space: diskSpace(path) }));
}
