/**
 * `berth doctor`: looks at the node as the daemon would find it. Leaves it as it was; a daemon may be running.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { openConfiguration } from './cni/config.ts';
import { createProber } from './cni/probe.ts';
import type { Config } from './config.ts';
import { type Disk, diagnose, type NodeFacts, reportOf, type SysctlName, sysctlNames } from './doctor.ts';
import { findCriu } from './engine/criu.ts';
import { openMonitorBinary } from './engine/monitor.ts';
import { probeUserNamespaces } from './engine/pod-namespaces.ts';
import { reasonOf } from './lib/errors.ts';
import { probeCgroups } from './sys/cgroups.ts';
import { probeHost } from './sys/host.ts';
import { openKernelLog } from './sys/kernel-log.ts';
import { hardLimit } from './sys/limits.ts';
import { diskSpace, hasModule, isClockSynchronized, missingSystemCalls, readSysctl } from './sys/node-probes.ts';

/** @returns a text for people, and whether pods can run. Needs root to see most of it. */
export async function examineNode(config: Config): Promise<{ readonly report: string; readonly isBroken: boolean }> {
  const findings = diagnose(await factsOf(config));
  return { report: reportOf(findings), isBroken: findings.some(({ verdict }) => verdict === 'broken') };
}

async function factsOf(config: Config): Promise<NodeFacts> {
  const isRoot = process.getuid?.() === 0;
  const mounts = isRoot ? await mountFacts(config.root) : { overlayFailure: 'not root', userNamespaceFailure: 'not root' };
  const sysctls = Object.fromEntries(sysctlNames.map((name) => [name, readSysctl(name)])) as Record<SysctlName, string | null>;
  return {
    isRoot,
    arch: process.arch,
    kernel: release(),
    missingSystemCalls: missingSystemCalls(),
    ...mounts,
    cgroups: cgroupFacts(),
    hasBridgeFilter: hasModule('br_netfilter'),
    sysctls,
    network: { confDir: config.cniConfDir, binDirs: config.cniBinDirs, failure: await networkFailure(config) },
    disks: diskFacts(config),
    openFilesMax: hardLimit('NOFILE'),
    hasKernelLog: canReadKernelLog(),
    criuFailure: await criuFailure(config.criu),
    clock: { nowMs: Date.now(), isSynchronized: isClockSynchronized() },
  };
}

/** Tried in a directory of its own beside what the daemon has there, for overlay depends on the file system. */
async function mountFacts(root: string): Promise<Pick<NodeFacts, 'overlayFailure' | 'userNamespaceFailure'>> {
  const made = mkdirSync(root, { recursive: true, mode: 0o711 });
  const monitor = await openMonitorBinary(join(import.meta.dirname, '../build/monitor'));
  try {
    const { overlayFailure } = probeHost(root);
    return { overlayFailure, userNamespaceFailure: await probeUserNamespaces({ monitor }, root) };
  } finally {
    monitor.close();
    if (made !== undefined) rmSync(made, { recursive: true });
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

async function criuFailure(program: string): Promise<string | null> {
  const found = await findCriu({ program, searchPath: process.env['PATH'] ?? '' });
  return 'lack' in found ? found.lack : null;
}

async function networkFailure({ cniConfDir, cniBinDirs }: Config): Promise<string | null> {
  const silent = { info: () => {}, warn: () => {} };
  const configuration = openConfiguration({ confDir: cniConfDir, log: silent, onChange: () => {} });
  try {
    const loaded = configuration.current();
    if (loaded.list === null) return loaded.reason;
    await createProber({ binDirs: cniBinDirs, environment: [`PATH=${process.env['PATH'] ?? ''}`] }).requireReady(loaded.list);
    return null;
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
