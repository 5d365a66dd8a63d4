/**
 * The lifecycle of containers: create, start, stop, update, remove. Undo is always remove.
 *
 * Calls for one container run one after another, but waiting for its exit does not block its queue.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, writeSync } from 'node:fs';
import { endsWithin } from '../../lib/deadline.ts';
import { BerthError, failedPrecondition, failedTo, notFound, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../../sys/call/syscalls.ts';
import { killCgroup, processes } from '../../sys/cgroup/cgroup-processes.ts';
import { readMemoryUsage, reclaimMemory } from '../../sys/cgroup/cgroup-values.ts';
import { ioWeightFile } from '../../sys/cgroup/cgroups.ts';
import { disksLike } from '../../sys/filesystem/block-devices.ts';
import { processStartTime } from '../../sys/process/processes.ts';
import { blockioClassOf, blockioValues } from '../cgroup/blockio.ts';
import { memoryLimitOf, mergeResources, planCgroup, planCgroupUpdate } from '../cgroup/cgroup.ts';
import type { EngineDeps } from '../deps.ts';
import { type MonitorRequest, reopenLog, startMonitor } from '../monitor/monitor.ts';
import { addPlanParts } from '../monitor/plan-spans.ts';
import { unavailableCapabilities } from '../plan/capabilities.ts';
import { resolveIdentity } from '../plan/identity.ts';
import { isCovered, normalPath } from '../plan/mounts.ts';
import { encodePlan } from '../plan/plan.ts';
import { capabilityRequest } from '../plan/process-plan.ts';
import { parseSignal } from '../plan/signals.ts';
import { copyDeclaredVolumes } from '../rootfs/declared-volumes.ts';
import { diskLimit } from '../rootfs/disk-limit.ts';
import { goReg, openContainer } from '../sources/container-sources.ts';
import { readInRoot } from '../sources/inspect-root.ts';
import { sandboxPaths } from '../sources/sandbox-paths.ts';
import {
  type ContainerRecord,
  type ContainerView,
  containerState,
  type ProcessIdentity,
  recordVersion,
  type SandboxView,
  sandboxState,
} from '../state/records.ts';
import { allMounts, type ContainerSpec, hasStartHooks, type IdMap, type Resources, type UserSpec } from '../state/spec.ts';
import { createStopwatch, type Stopwatch, type Timeline } from '../state/timeline.ts';
import { adoptContainer, prepareCgroup } from './adopt-cgroup.ts';
import { watchExit } from './exits.ts';
import { makeBundle, runHooks } from './hooks.ts';
import { monitorPlacer } from './monitor-cgroup.ts';
import { savePlan, saveRun } from './saved-plan.ts';

/** The image of a container, with its config and layers. */
export type ContainerImage = ContainerRecord['image'];

const SIGKILL = 9;
/** Exit code and reason of a container that could not be started, as in containerd. */
const startFailure = { exitCode: 128, reason: 'StartError' } as const;
/** Timeout for processes to exit after SIGKILL. */
const killTimeoutMs = 30_000;

export const newId = (): string => randomBytes(32).toString('hex');

/**
 * Creates a container in a sandbox. Rejects everything that can be rejected before the start; startContainer() runs the process.
 *
 * A call for a name whose creation is in progress joins it. A call for a container that has already been created returns its id.
 * @throws {BerthError} naming the step that failed. Nothing is left behind.
 */
export function createContainer(deps: EngineDeps, sandboxId: string, spec: ContainerSpec, image: ContainerImage): Promise<string> {
  const { name, attempt } = spec.metadata;
  return deps.singleflight.join(`container ${sandboxId} ${name} ${attempt}`, async () => {
    const sandbox = readySandbox(deps, sandboxId);
    const existing = deps.store.containers
      .all()
      .find(({ record }) => record.sandboxId === sandbox.record.id && record.spec.metadata.name === name && record.spec.metadata.attempt === attempt);
    if (existing === undefined) return createNew(deps, sandbox, spec, image);
    if (containerState(existing.status) === 'created') return existing.record.id;
    throw new BerthError(
      'ALREADY_EXISTS',
      `create container ${name}: attempt ${attempt} already exists in this sandbox, and is ${containerState(existing.status)}`,
    );
  });
}

function readySandbox(deps: EngineDeps, id: string): SandboxView {
  const sandbox = deps.store.sandboxes.get(id);
  if (sandbox === undefined || sandboxState(sandbox.status) === 'creating') throw notFound(`sandbox ${id} not found`);
  if (sandboxState(sandbox.status) !== 'ready') throw failedPrecondition(`sandbox ${id} is not ready`);
  return sandbox;
}

async function createNew(deps: EngineDeps, sandbox: SandboxView, requested: ContainerSpec, image: ContainerImage): Promise<string> {
  const id = newId();
  const spec = { ...requested, resources: withBlockio(deps, sandbox, requested) };
  const { step, timeline } = createStopwatch(deps);
  deps.layers.lease(id, diffIdsOf(spec, image));
  try {
    await deps.appArmor.ensure(spec.security.appArmorProfile);
    const root = await step('create.root', async () => {
      const { user: ids } = sandbox.record.spec.namespaces;
      deps.rootfs.create(id, image.layerDirs, { ...(ids ? { ids } : {}), ...diskLimit(sandbox.record.spec, spec) });
      const fd = await deps.rootfs.open(id, image.layerDirs, sandboxPaths(deps, sandbox.record).pins.user);
      await copyDeclaredVolumes(fd, deps.rootfs.volumesDir(id), neededVolumes(spec, image), ids);
      return fd;
    });
    // The sandbox may have been stopped in the meantime. There is no await between this check and the record.
    readySandbox(deps, sandbox.record.id);
    const record = composeRecord(deps, id, sandbox, spec, image, root);
    deps.store.containers.create(record, { resources: spec.resources });
    warnOfCapabilities(deps, record);
    await step('create.cgroup', () => prepareCgroup(deps, record, record.spec.resources));
    step('create.plan', () => {
      const { plan, registers } = openContainer(deps, { record, status: { resources: spec.resources } }, sandbox, root);
      registers.closeAll();
      encodePlan(plan);
    });
    deps.store.containers.update(id, (status) => ({ ...status, readyAtNs: deps.clock.nowNs(), timeline: timeline() }));
    if (spec.security.isSelinuxLabelIgnored) deps.log.warn({ id, name: spec.metadata.name }, 'SELinux label ignored: the node does not have SELinux');
    return id;
  } catch (error) {
    await discard(deps, id).catch((leftover: unknown) =>
      deps.log.warn({ id, reason: reasonOf(leftover) }, 'failed to clean up a container that was not created; recovery retries'),
    );
    throw failedTo(`create container ${spec.metadata.name}`, error);
  }
}

/** Returns the resources with the values of the blockio class that the annotations select. Values of the request take precedence. */
function withBlockio({ blockio, cgroups }: EngineDeps, { record }: SandboxView, { metadata, annotations, resources }: ContainerSpec): Resources {
  const name = blockioClassOf(metadata.name, annotations, record.spec.annotations);
  if (blockio === null || name === undefined) return resources;
  return mergeResources({ unified: blockioValues(blockio, name, disksLike, ioWeightFile(cgroups)) }, resources);
}

/** Returns the diff ids of all layers that a container uses: those of its image and of its image volumes. */
export function diffIdsOf(spec: ContainerSpec, image: ContainerImage): string[] {
  return [...new Set([...image.diffIds, ...spec.mounts.flatMap((mount) => mount.image?.found?.diffIds ?? [])])];
}

function warnOfCapabilities({ facts, log }: EngineDeps, { id, spec }: ContainerRecord): void {
  const missing = unavailableCapabilities(capabilityRequest(spec.security), facts.capabilities);
  if (missing.length > 0) log.warn({ id, capabilities: missing.join(', ') }, 'the container requests capabilities that the daemon does not have');
}

/** Returns the volumes that the image declares; undefined in place of one that a mount of the request replaces, and of the root. */
function neededVolumes(spec: ContainerSpec, image: ContainerImage): (string | undefined)[] {
  const targets = allMounts(spec).map((mount) => mount.containerPath);
  return image.config.volumes.map((path) => (normalPath(path) === '/' || isCovered(path, targets) ? undefined : path));
}

function composeRecord(
  deps: EngineDeps,
  id: string,
  sandbox: SandboxView,
  spec: ContainerSpec,
  image: ContainerImage,
  root: number,
): ContainerRecord {
  const files = { passwd: readInRoot(root, '/etc/passwd'), group: readInRoot(root, '/etc/group') };
  const { user: ids } = sandbox.record.spec.namespaces;
  return {
    version: recordVersion,
    id,
    sandboxId: sandbox.record.id,
    spec,
    image,
    identity: resolveIdentity({ userSpec: withGroups(spec), imageUser: image.config.user, ...(ids ? { ids } : {}) }, files),
    stopSignal: parseSignal(spec.stopSignal ?? (image.config.stopSignal || 'SIGTERM')),
    cgroupPath: deps.cgroupDriver.pathOf(sandbox.record.spec.cgroupParent, id),
    keyringSecret: newId(),
    createdAtNs: deps.clock.nowNs(),
  };
}

/** Adds the groups that CDI devices require. */
function withGroups({ security, edits }: ContainerSpec): UserSpec {
  const { user } = security;
  return edits === undefined ? user : { ...user, supplementalGroups: [...user.supplementalGroups, ...edits.gids] };
}

/**
 * Starts a created container. Returns when its program has been executed.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the container is not CREATED. If the start fails, the error names the failed operation, and the
 *   container is EXITED.
 */
export function startContainer(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, async () => {
    const view = containerOf(deps, id);
    const state = containerState(view.status);
    if (state !== 'created') throw failedPrecondition(`start container ${id}: the container is ${state}`);
    const sandbox = readySandbox(deps, view.record.sandboxId);
    const attempt = `start container ${view.record.spec.metadata.name}`;
    try {
      deps.store.containers.update(id, (status) => ({ ...status, startingAtNs: deps.clock.nowNs() }));
    } catch (error) {
      throw failedTo(attempt, error);
    }
    const stopwatch = createStopwatch(deps);
    try {
      await launch(deps, view, sandbox, stopwatch);
    } catch (error) {
      await recordStartFailure(deps, id, reasonOf(error), stopwatch.timeline());
      throw failedTo(attempt, error);
    }
  });
}

/**
 * Lets root of a pod's user namespace pass to the container's directory, where its plan attaches the root file system and its hooks run. All other users
 * stay out: no user of the node has its group.
 */
function admitPodRoot(directory: string, { gids }: IdMap): void {
  chownSync(directory, 0, gids.hostId);
  chmodSync(directory, 0o710);
}

async function launch(deps: EngineDeps, view: ContainerView, sandbox: SandboxView, { step, timeline }: Stopwatch): Promise<void> {
  const { record } = view;
  const { id } = record;
  const { user } = sandbox.record.spec.namespaces;
  if (user !== undefined) admitPodRoot(deps.store.containers.directory(id), user);
  const root = await step('start.root', () => deps.rootfs.open(id, record.image.layerDirs, sandboxPaths(deps, sandbox.record).pins.user));
  // Before the fds of the plan are opened: it may fail.
  if (hasStartHooks(record.spec)) makeBundle(deps, record);
  const { plan, registers } = step('start.plan', () => openContainer(deps, view, sandbox, root));
  const spawned = monitorPlacer(deps, view);
  const starting = step('start.monitor', (span) => {
    const ran: MonitorRequest['ran'] = (result) => {
      saveRun(deps, id, result.run);
      addPlanParts(span, plan, result);
    };
    const held = async (pid: number) => {
      await step('start.hooks', () => runHooks(deps, view.record, ['prestart', 'createRuntime', 'createContainer'], pid));
      writeSync(registers.fdOf(goReg), '.');
    };
    return startMonitor(deps, { plan, fds: registers.fds, name: id, spawned, ran, held }).finally(registers.closeAll);
  });
  // Concurrently with the monitor.
  savePlan(deps, id, plan);
  const started = await starting;
  const monitor = identify(started.monitorPid);
  deps.store.containers.update(id, (before) => ({
    ...before,
    startedAtNs: deps.clock.nowNs(),
    process: identify(started.pid),
    monitor,
    timeline: { ...before.timeline, ...timeline() },
  }));
  deps.rootfs.release(id);
  watchExit(deps, id, monitor);
  await adoptContainer(deps, id);
  await runHooksBestEffort(deps, record, 'poststart', started.pid);
}

/** Runs hooks whose failure has no effect, but is logged. */
async function runHooksBestEffort(deps: EngineDeps, record: ContainerRecord, point: 'poststart' | 'poststop', pid: number): Promise<void> {
  await runHooks(deps, record, [point], pid).catch((error: unknown) =>
    deps.log.warn({ id: record.id, reason: reasonOf(error) }, 'failed to run a hook'),
  );
}

/** The start time of a process that has already exited is '', so that it is never considered alive. */
function identify(pid: number): ProcessIdentity {
  return { pid, startTime: processStartTime(pid) ?? '' };
}

/** Cleans up a failed or interrupted start, and sets the container to EXITED. @param timeline of the steps of the start. */
export async function recordStartFailure(deps: EngineDeps, id: string, message: string, timeline: Timeline = {}): Promise<void> {
  const cgroupPath = deps.store.containers.get(id)?.record.cgroupPath;
  if (cgroupPath === undefined) return;
  // Before the status changes to EXITED. The monitor of an interrupted start has exited with its daemon, or has moved the process into this cgroup.
  const left = await killCgroup(deps.cgroups, cgroupPath, killTimeoutMs);
  if (left.length > 0) deps.log.warn({ id, pids: left }, 'processes of a container that failed to start survive SIGKILL');
  const unwritten = deps.store.containers.updateBestEffort(id, (status) => {
    const now = deps.clock.nowNs();
    const times = { startedAtNs: status.startedAtNs ?? now, finishedAtNs: now, timeline: { ...status.timeline, ...timeline } };
    return { ...status, ...times, ...startFailure, message };
  });
  if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, 'failed to write the status of a container that did not start');
  deps.rootfs.release(id);
  await deps.cgroupDriver
    .remove(cgroupPath)
    .catch((error: unknown) => deps.log.warn({ id, reason: reasonOf(error) }, 'failed to remove the cgroup; it is removed with the container'));
}

/**
 * Stops a running container: sends its stop signal, and SIGKILL after `timeoutMs`; 0 sends SIGKILL at once. Returns when the container is EXITED.
 *
 * A second call during a stop does not send the stop signal again, but a shorter timeout takes effect. Does nothing if the container is not running.
 * @throws {BerthError} DEADLINE_EXCEEDED, naming the processes, if they survive SIGKILL.
 */
export async function stopContainer(deps: EngineDeps, id: string, timeoutMs: number): Promise<void> {
  // Waits for a start in progress. The wait for the exit must not block the queue.
  await deps.queue.run(id, async () => {});
  await endContainer(deps, id, timeoutMs);
}

async function endContainer(deps: EngineDeps, id: string, timeoutMs: number): Promise<void> {
  const view = deps.store.containers.get(id);
  const watch = deps.watches.of(id);
  // An unreadable record does not contain the process or its stop signal.
  if (view !== undefined && containerState(view.status) === 'unknown') return killAll(deps, view, 'stop');
  if (view === undefined || watch === undefined || containerState(view.status) !== 'running') return;
  const isFirst = !watch.stopping.signal.aborted;
  // Aborts a checkpoint in progress, which keeps the processes frozen.
  watch.stopping.abort(failedPrecondition('the container was stopped'));
  if (timeoutMs > 0) {
    if (isFirst) signalContainer(view, view.record.stopSignal);
    if (await endsWithin(timeoutMs, watch.exited)) return watch.exited;
  }
  signalContainer(view, SIGKILL);
  // Without its own pid namespace, the kernel does not kill the other processes when the first one exits.
  if (view.record.spec.security.namespaces.pid !== 'container') await killCgroup(deps.cgroups, view.record.cgroupPath, killTimeoutMs);
  if (await endsWithin(killTimeoutMs, watch.exited)) return watch.exited;
  throw unkillable('stop', id, await processes(deps.cgroups, view.record.cgroupPath));
}

const unkillable = (attempt: string, id: string, pids: readonly number[]) =>
  new BerthError('DEADLINE_EXCEEDED', `${attempt} container ${id}: processes ${pids.join(', ')} survive SIGKILL`);

/** @throws {BerthError} DEADLINE_EXCEEDED, naming the processes that survive SIGKILL. */
async function killAll(deps: EngineDeps, view: ContainerView, attempt: string): Promise<void> {
  for (const path of await cgroupsOf(deps, view)) {
    const left = await killCgroup(deps.cgroups, path, killTimeoutMs);
    if (left.length > 0) throw unkillable(attempt, view.record.id, left);
  }
}

/** Returns the cgroup from the record. An unreadable record does not contain it, so it is found by the id. */
async function cgroupsOf(deps: EngineDeps, { record, status }: ContainerView): Promise<readonly string[]> {
  return status.unreadableReason === undefined ? [record.cgroupPath] : deps.cgroupDriver.find(record.id);
}

function signalContainer({ status }: ContainerView, signal: number): void {
  const { process } = status;
  if (process === undefined) return;
  try {
    const pidfd = pidfdOpen(process.pid);
    try {
      // The pid may have been reused before pidfd_open: compare the start time.
      if (processStartTime(process.pid) === process.startTime) pidfdSendSignal(pidfd, signal);
    } finally {
      close(pidfd);
    }
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

/** Queue key: checkpoints of a container run one after another, and its removal waits for them. */
export const checkpointKey = (id: string): string => `checkpoint ${id}`;

/** Kills a container, and removes it with everything it has written except its logs. Idempotent. */
export function removeContainer(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, async () => {
    await endContainer(deps, id, 0);
    await deps.queue.run(checkpointKey(id), async () => {});
    await discard(deps, id);
  });
}

/** Removes everything of a container, in an order that can be repeated after a crash between any two steps. */
export async function discard(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view !== undefined) {
    await killAll(deps, view, 'remove');
    for (const path of await cgroupsOf(deps, view)) await deps.cgroupDriver.remove(path);
  }
  if (view?.status.startingAtNs !== undefined) await runHooksBestEffort(deps, view.record, 'poststop', 0);
  await deps.rootfs.remove(id);
  await deps.store.containers.remove(id);
  deps.layers.release(id);
}

/**
 * Changes a container's resources, all or none. Before the start they also apply to the start; after the exit they are only recorded.
 *
 * @throws {BerthError} naming the file and the value that the kernel rejected; FAILED_PRECONDITION for a memory limit below the current usage.
 */
export function updateContainerResources(deps: EngineDeps, id: string, wanted: Resources): Promise<void> {
  return deps.queue.run(id, async () => {
    const { record, status } = containerOf(deps, id);
    const state = containerState(status);
    if (state === 'exited') {
      deps.store.containers.update(id, (before) => ({ ...before, resources: mergeResources(before.resources, wanted) }));
      return;
    }
    const memoryBytes = state === 'running' ? readMemoryUsage(deps.cgroups, record.cgroupPath) : null;
    const usage = memoryBytes === null ? null : { memoryBytes };
    const { resources, writes } = planCgroupUpdate(status.resources, wanted, deps.cgroups, usage);
    await reclaimForLimit(deps, record.cgroupPath, memoryLimitOf(wanted), memoryBytes);
    await deps.cgroupDriver.update(record.cgroupPath, { writes, values: planCgroup(resources, deps.cgroups) });
    // Best effort: the cgroup has been updated, even if the status cannot be written to a full disk.
    const unwritten = deps.store.containers.updateBestEffort(id, (before) => ({ ...before, resources }));
    if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, 'failed to write the status of a container with new resources');
  });
}

/** @throws {BerthError} FAILED_PRECONDITION if the kernel cannot reclaim enough memory. */
async function reclaimForLimit({ cgroups }: EngineDeps, path: string, limit: number | undefined, unreclaimable: number | null): Promise<void> {
  // Above: the request repeats a limit that is already exceeded.
  if (limit === undefined || limit < 0 || unreclaimable === null || unreclaimable > limit) return;
  const left = await reclaimMemory(cgroups, path, limit);
  if (left !== null) throw failedPrecondition(`memory limit ${limit} bytes: the kernel could not reclaim enough of the ${left} bytes in use`);
}

/** Makes the container's monitor reopen its log file. @throws {BerthError} FAILED_PRECONDITION if the container is not running. */
export async function reopenContainerLog(deps: EngineDeps, id: string): Promise<void> {
  const { status } = containerOf(deps, id);
  if (containerState(status) !== 'running') throw failedPrecondition(`reopen the log of container ${id}: the container is ${containerState(status)}`);
  await reopenLog(deps.store.containers.directory(id));
}

/** Returns a container by its full id. @throws {BerthError} NOT_FOUND. */
export function containerOf(deps: EngineDeps, id: string): ContainerView {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) === 'creating') throw notFound(`container ${id} not found`);
  return view;
}
