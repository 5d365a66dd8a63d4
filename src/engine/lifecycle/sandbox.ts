/**
 * The lifecycle of sandboxes: run, stop, remove. Undo is always stop and remove; both continue where an earlier attempt failed.
 */
import assert from 'node:assert/strict';
import { chownSync, mkdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { BerthError, failedPrecondition, failedTo, reasonOf } from '../../lib/errors.ts';
import { close } from '../../sys/call/syscalls.ts';
import { killCgroup } from '../../sys/cgroup/cgroup-processes.ts';
import { openCgroup } from '../../sys/cgroup/cgroups.ts';
import { replaceFile } from '../../sys/filesystem/files.ts';
import { attachMount, createDetachedMount, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, unmount } from '../../sys/mount/mounts.ts';
import { createNamespaces, unpinNamespaces, visitNetNamespaces } from '../../sys/process/namespaces.ts';
import { processStartTime } from '../../sys/process/processes.ts';
import { type Sysctl, writeSysctls } from '../../sys/process/sysctls.ts';
import type { EngineDeps } from '../deps.ts';
import { startMonitor } from '../monitor/monitor.ts';
import { planReaper } from '../plan/plan-reaper.ts';
import { clampOomScore } from '../plan/process-plan.ts';
import { addCgroupEntry } from '../sources/container-sources.ts';
import { openPins } from '../sources/open-pins.ts';
import { createRegisters } from '../sources/registers.ts';
import { type SandboxPaths, sandboxPaths } from '../sources/sandbox-paths.ts';
import { type PodResources, type ProcessIdentity, recordVersion, type SandboxRecord, type SandboxView, sandboxState } from '../state/records.ts';
import type { SandboxSpec } from '../state/spec.ts';
import { createStopwatch } from '../state/timeline.ts';
import { adoptReaper } from './adopt-cgroup.ts';
import { newId, removeContainer, stopContainer } from './container.ts';
import { removeMonitorCgroup } from './monitor-cgroup.ts';
import { createPodNamespaces } from './pod-namespaces.ts';
import { defaultSysctls, resolvConf, sandboxSysctls, splitSysctls } from './sandbox-files.ts';

/** Size of a pod's /dev/shm, as in containerd and CRI-O. */
const shmSize = '65536k';
/** As for the pause process of containerd and CRI-O: the pod must outlive its containers. */
const reaperOomScore = -998;
const killTimeoutMs = 10_000;

/**
 * Runs a sandbox: creates its files, its namespaces and its network. It becomes visible when it is complete.
 *
 * A call with the same name, namespace, uid and attempt joins the one in progress, or returns the id of the sandbox if it is ready.
 * @throws {BerthError} naming the step that failed. Nothing is left behind, or a sandbox that is not ready and can be stopped and removed.
 */
export function runSandbox(deps: EngineDeps, spec: SandboxSpec): Promise<string> {
  const key = nameOf(spec);
  return deps.singleflight.join(`sandbox ${key}`, async () => {
    const existing = deps.store.sandboxes.all().find(({ record }) => nameOf(record.spec) === key);
    if (existing === undefined) return createNew(deps, spec);
    if (sandboxState(existing.status) === 'ready') return existing.record.id;
    throw new BerthError(
      'ALREADY_EXISTS',
      `run sandbox ${spec.metadata.namespace}/${spec.metadata.name}: this attempt already exists, and is not ready`,
    );
  });
}

function nameOf({ metadata }: SandboxSpec): string {
  return JSON.stringify([metadata.namespace, metadata.name, metadata.uid, metadata.attempt]);
}

async function createNew(deps: EngineDeps, spec: SandboxSpec): Promise<string> {
  const id = newId();
  const hasNetwork = spec.namespaces.network === 'pod';
  const netnsPath = netnsPathOf(deps, id);
  const { step, timeline } = createStopwatch(deps);
  try {
    const record: SandboxRecord = {
      version: recordVersion,
      id,
      spec,
      createdAtNs: deps.clock.nowNs(),
      ...(hasNetwork ? { netnsPath } : {}),
      ...ownCgroup(deps, id, spec),
    };
    // Before the first effect: after a crash, whatever follows is found through this record.
    deps.store.sandboxes.create(record, {});
    const paths = sandboxPaths(deps, record);
    step('sandbox.files', () => writeFiles(deps, spec, paths));
    await step('sandbox.namespaces', () => createOwnNamespaces(deps, record, paths));
    const reaper = spec.namespaces.pid === 'pod' ? await step('sandbox.reaper', () => startReaper(deps, record, paths)) : undefined;
    const network = hasNetwork ? await step('sandbox.network', () => attach(deps, record, netnsPath)) : undefined;
    writeInterfaceSysctls(deps, record);
    // Exists already if the sandbox has its own processes.
    if (record.cgroupPath !== undefined && deps.settings.marksNetworks) await deps.cgroupDriver.create(record.cgroupPath);
    deps.store.sandboxes.update(id, () => ({
      readyAtNs: deps.clock.nowNs(),
      ...(network ? { network } : {}),
      ...(reaper ? { reaper } : {}),
      timeline: timeline(),
    }));
    return id;
  } catch (error) {
    await discardSandbox(deps, id).catch((leftover: unknown) =>
      deps.log.warn({ id, reason: reasonOf(leftover) }, 'failed to clean up a sandbox that did not start; it remains not ready'),
    );
    throw failedTo(`run sandbox ${spec.metadata.namespace}/${spec.metadata.name}`, error);
  }
}

async function createOwnNamespaces(deps: EngineDeps, record: SandboxRecord, { pins }: SandboxPaths): Promise<void> {
  const { id, spec } = record;
  const { user: ids, pid } = spec.namespaces;
  const sysctls = splitSysctls(sysctlsOf(deps, spec)).early;
  const { user: _, ...others } = pins;
  if (ids === undefined) return createNamespaces({ pins: others, hostname: spec.hostname, sysctls });
  if (deps.userNamespaceFailure !== null) throw failedPrecondition(`this node cannot run pods in user namespaces: ${deps.userNamespaceFailure}`);
  const cgroupPath = cgroupOf(record);
  await deps.cgroupDriver.create(cgroupPath);
  await createPodNamespaces(deps, { id, ids, pins, hostname: spec.hostname, sysctls, cgroupPath });
  if (pid !== 'pod') await killOwnProcesses(deps, [cgroupPath]);
}

function sysctlsOf({ settings }: EngineDeps, { sysctls, namespaces: { network, user } }: SandboxSpec): Sysctl[] {
  return sandboxSysctls(sysctls, defaultSysctls(settings.defaultSysctls, user), network === 'pod');
}

/** Plugins create the interfaces, so their sysctls follow, as in containerd and CRI-O, whose pause process starts after the network. */
function writeInterfaceSysctls(deps: EngineDeps, { netnsPath, spec }: SandboxRecord): void {
  const { late } = splitSysctls(sysctlsOf(deps, spec));
  if (netnsPath !== undefined && late.length > 0) visitNetNamespaces([netnsPath], () => writeSysctls(late));
}

/** `cni-<uuid>`, the usual name, which network agents look for. It is derived from the id, so that it is known without the record. */
function netnsPathOf(deps: EngineDeps, id: string): string {
  const [, ...parts] = /^(.{8})(.{4})(.{4})(.{4})(.{12})/.exec(id) ?? [];
  return join(deps.settings.netnsDir, `cni-${parts.length > 0 ? parts.join('-') : id}`);
}

function writeFiles(deps: EngineDeps, spec: SandboxSpec, paths: SandboxPaths): void {
  const { user } = spec.namespaces;
  const write = (name: string, text: string) => {
    replaceFile(join(paths.directory, name), text, { survivesPowerLoss: false, mode: 0o644 });
    if (user !== undefined) chownSync(join(paths.directory, name), user.uids.hostId, user.gids.hostId);
  };
  write('hostname', `${spec.hostname || deps.facts.hostname}\n`);
  write('hosts', hostFile('/etc/hosts'));
  write('resolv.conf', resolvConf(spec.dns, spec.dns === undefined ? hostFile('/etc/resolv.conf') : ''));
  if (!paths.hasOwnShm) return;
  mkdirSync(paths.shm);
  const options = [
    ['source', 'shm'],
    ['mode', '1777'],
    ['size', shmSize],
    ['uid', String(user?.uids.hostId ?? 0)],
    ['gid', String(user?.gids.hostId ?? 0)],
  ] as const;
  const mount = createDetachedMount('tmpfs', options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  attachMount(mount, paths.shm);
  close(mount);
}

function hostFile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function attach(deps: EngineDeps, { id, spec }: SandboxRecord, netnsPath: string) {
  const { metadata, portMappings, annotations, cgroupParent, dns } = spec;
  const attachment = { sandboxId: id, metadata, netnsPath, portMappings, annotations, cgroupParent, ...(dns ? { dns } : {}) };
  return deps.network.add(attachment, AbortSignal.timeout(deps.settings.networkTimeoutMs));
}

/**
 * Returns the sandbox's own cgroup, beside those of its containers: for the reaper, for the processes that create namespaces, or empty to mark the
 * network.
 *
 * @throws {BerthError} for a parent of the other cgroup driver, even if the sandbox needs no cgroup: this reports a wrong kubelet configuration with
 *   the first pod.
 */
function ownCgroup(deps: EngineDeps, id: string, { cgroupParent, namespaces }: SandboxSpec): { cgroupPath?: string } {
  const cgroupPath = deps.cgroupDriver.pathOf(cgroupParent, id);
  const isMarked = deps.settings.marksNetworks && namespaces.network === 'pod';
  return isMarked || hasOwnProcesses(namespaces) ? { cgroupPath } : {};
}

const hasOwnProcesses = ({ pid, user }: SandboxSpec['namespaces']): boolean => pid === 'pod' || user !== undefined;

function cgroupOf({ cgroupPath }: SandboxRecord): string {
  assert(cgroupPath !== undefined, 'a sandbox with its own processes has a cgroup');
  return cgroupPath;
}

/** Returns the sandbox's own cgroups. Unreadable records and those of older versions do not contain the path, so it is found by the id. */
async function ownCgroups(deps: EngineDeps, view: SandboxView): Promise<readonly string[]> {
  const { id, cgroupPath, spec } = view.record;
  if (cgroupPath !== undefined) return [cgroupPath];
  return isUnreadable(view) || hasOwnProcesses(spec.namespaces) ? deps.cgroupDriver.find(id) : [];
}

async function startReaper(deps: EngineDeps, record: SandboxRecord, paths: SandboxPaths): Promise<ProcessIdentity> {
  const cgroupPath = cgroupOf(record);
  await deps.cgroupDriver.create(cgroupPath);
  const registers = createRegisters();
  try {
    const pins = openPins(paths.pins, registers);
    const cgroup = addCgroupEntry(openCgroup(deps.cgroups, cgroupPath), registers);
    const plan = planReaper({ ...pins, cgroup, fds: registers.names, oomScoreAdj: clampOomScore(reaperOomScore, deps.facts) });
    const { pid } = await startMonitor(deps, { plan, fds: registers.fds, name: record.id });
    await adoptReaper(deps, record);
    return { pid, startTime: processStartTime(pid) ?? '' };
  } finally {
    registers.closeAll();
  }
}

/**
 * Stops a sandbox: kills its containers, detaches its network, unpins its namespaces. Idempotent; succeeds if the sandbox does not exist.
 *
 * @throws {BerthError} if a step fails. The sandbox is then not ready, and the next call continues.
 */
export function stopSandbox(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, () => endSandbox(deps, id));
}

async function endSandbox(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.sandboxes.get(id);
  if (view === undefined) return;
  // First, so that nothing new starts in the sandbox. Best effort, because a stop must also work with a full disk.
  const unwritten = deps.store.sandboxes.updateBestEffort(id, ({ network: _, ...status }) => ({
    ...status,
    stoppedAtNs: status.stoppedAtNs ?? deps.clock.nowNs(),
  }));
  if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, 'failed to write the status of a stopped sandbox');
  await Promise.all(containersOf(deps, id).map((containerId) => stopContainer(deps, containerId, 0)));
  const record = isUnreadable(view) ? { ...view.record, netnsPath: netnsPathOf(deps, id) } : view.record;
  await killOwnProcesses(deps, await ownCgroups(deps, view));
  await removeMonitorCgroup(deps, record);
  if (record.netnsPath !== undefined) await deps.network.remove(id, AbortSignal.timeout(deps.settings.networkTimeoutMs));
  const paths = sandboxPaths(deps, record);
  // `user` explicitly, because an unreadable record does not say whether there is a user namespace.
  unpinNamespaces([...Object.values(paths.pins), join(paths.directory, 'user')]);
  if (paths.pins.net !== undefined) rmSync(paths.pins.net, { force: true });
  if (paths.hasOwnShm) while (unmount(paths.shm));
}

function containersOf(deps: EngineDeps, sandboxId: string): string[] {
  return deps.store.containers
    .all()
    .filter(({ record }) => record.sandboxId === sandboxId)
    .map(({ record }) => record.id);
}

const isUnreadable = ({ record, status }: SandboxView): boolean => status.unreadableReason !== undefined && record.netnsPath === undefined;

async function killOwnProcesses(deps: EngineDeps, cgroupPaths: readonly string[]): Promise<void> {
  for (const path of cgroupPaths) {
    await killCgroup(deps.cgroups, path, killTimeoutMs);
    await deps.cgroupDriver.remove(path);
  }
}

/** Stops a sandbox, and removes it with all its containers. Idempotent. @throws {BerthError} as stopSandbox(). */
export function removeSandbox(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, () => discardSandbox(deps, id));
}

/** Records the resources of the whole pod. Fields that are not in `change` are unchanged. */
export function updateSandboxResources(deps: EngineDeps, id: string, change: PodResources): Promise<void> {
  return deps.queue.run(id, async () => {
    deps.store.sandboxes.update(id, (status) => ({ ...status, resources: { ...status.resources, ...change } }));
  });
}

/** Stops and removes a sandbox. The caller runs in its queue, or is the only one that knows it. */
export async function discardSandbox(deps: EngineDeps, id: string): Promise<void> {
  await endSandbox(deps, id);
  await Promise.all(containersOf(deps, id).map((containerId) => removeContainer(deps, containerId)));
  await deps.store.sandboxes.remove(id);
}

/** NSFS_MAGIC of include/uapi/linux/magic.h. */
const nsfsMagic = 0x6e736673;

/** Returns whether the namespaces of a sandbox are still pinned, which they are not after a reboot. */
export function hasNamespaces(deps: EngineDeps, record: SandboxRecord): boolean {
  return Object.values(sandboxPaths(deps, record).pins).every((path) => {
    try {
      return statfsSync(path).type === nsfsMagic;
    } catch {
      return false;
    }
  });
}
