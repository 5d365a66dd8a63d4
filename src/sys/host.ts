/**
 * Probes the features of the kernel and node, once at start.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { hostname, release } from 'node:os';
import { join } from 'node:path';
import { close } from './call/syscalls.ts';
import { createDetachedMount, MOUNT_ATTR_RDONLY, setMountAttributes } from './mount/mounts.ts';
import { createOverlay } from './mount/overlay.ts';

export type HostFacts = {
  readonly kernel: string;
  readonly arch: string;
  readonly hostname: string;
  /** Null if overlay mounts work, otherwise the kernel's error. */
  readonly overlayFailure: string | null;
  readonly canMountRecursivelyReadonly: boolean;
  readonly hasAppArmor: boolean;
  readonly hasSelinux: boolean;
  /** The daemon's own capabilities: containers cannot get others. */
  readonly capabilities: bigint;
  /** The daemon's own value. Setting a lower one requires CAP_SYS_RESOURCE. */
  readonly oomScoreAdj: number;
  readonly bootId: string;
};

/** @param rootDir directory of the containers' writable layers: overlayfs depends on its file system. */
export function probeHost(rootDir: string): HostFacts {
  return {
    kernel: release(),
    arch: process.arch,
    hostname: hostname(),
    overlayFailure: probeOverlay(rootDir),
    canMountRecursivelyReadonly: probeRecursiveReadonly(),
    hasAppArmor: readOr('/sys/module/apparmor/parameters/enabled', 'N').startsWith('Y'),
    hasSelinux: readOr('/sys/fs/selinux/enforce', '') !== '',
    capabilities: BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)/m.exec(readOr('/proc/self/status', ''))?.[1] ?? '0'}`),
    oomScoreAdj: Number(readOr('/proc/self/oom_score_adj', '0')),
    bootId: readOr('/proc/sys/kernel/random/boot_id', '').trim(),
  };
}

/** Returns the features of the first CPU on x86, by the names of the kernel; elsewhere none. */
export function cpuFlags(): ReadonlySet<string> {
  return new Set(/^flags\s*:(.*)$/m.exec(readOr('/proc/cpuinfo', ''))?.[1]?.trim().split(/\s+/));
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return fallback;
  }
}

function probeOverlay(rootDir: string): string | null {
  const directory = mkdtempSync(join(rootDir, '.overlay-probe-'));
  try {
    const [layer, upper, work] = ['layer', 'upper', 'work'].map((name) => join(directory, name)) as [string, string, string];
    for (const path of [layer, upper, work]) mkdirSync(path);
    close(createOverlay({ layers: [layer], writable: { upper, work } }));
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function probeRecursiveReadonly(): boolean {
  try {
    const mount = createDetachedMount('tmpfs', []);
    try {
      setMountAttributes(mount, { set: MOUNT_ATTR_RDONLY, isRecursive: true });
      return true;
    } finally {
      close(mount);
    }
  } catch {
    return false;
  }
}
