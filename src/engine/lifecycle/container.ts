/**
 * A container's life: create, start, stop, update, remove. Undo is remove, whoever asks for it.
 *
 * Calls on one container run one after another; waiting for an end does not hold the queue.
 */
import { randomBytes } from 'node:crypto';
import { writeSync } from 'node:fs';
import { endsWithin } from '../../lib/deadline.ts';
import { BerthError, failedPrecondition, failedTo, notFound, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../../sys/call/syscalls.ts';
import { killCgroup, processes } from '../../sys/cgroup/cgroup-processes.ts';
import { readMemoryUsage } from '../../sys/cgroup/cgroup-values.ts';
import { ioWeightFile } from '../../sys/cgroup/cgroups.ts';
import { disksLike } from '../../sys/filesystem/block-devices.ts';
import { processStartTime } from '../../sys/process/processes.ts';
import { blockioClassOf, blockioValues } from '../cgroup/blockio.ts';
import { mergeResources, planCgroup, planCgroupUpdate } from '../cgroup/cgroup.ts';
import type { EngineDeps } from '../deps.ts';
import { type MonitorRequest, reopenLog, startMonitor } from '../monitor/monitor.ts';
import { addPlanParts } from '../monitor/plan-spans.ts';
import { resolveIdentity } from '../plan/identity.ts';
import { encodePlan } from '../plan/plan.ts';
import { parseSignal } from '../plan/signals.ts';
import { diskLimit } from '../rootfs/disk-limit.ts';
import { ensureAppArmorProfile } from '../sources/apparmor-profiles.ts';
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
import { type ContainerSpec, hasStartHooks, type Resources, type UserSpec } from '../state/spec.ts';
import { createStopwatch, type Stopwatch, type Timeline } from '../state/timeline.ts';
import { adoptContainer, prepareCgroup } from './adopt-cgroup.ts';
import { watchExit } from './exits.ts';
import { makeBundle, runHooks } from './hooks.ts';
import { monitorPlacer } from './monitor-cgroup.ts';
import { savePlan, saveRun } from './saved-plan.ts';

/** An image as a container is made from it. */
export type ContainerImage = ContainerRecord['image'];

const SIGKILL = 9;
/** Exit code and reason of a container that could not be started, as containerd has them. */
const startFailure = { exitCode: 128, reason: 'StartError' } as const;
/** How long a process may take to die of SIGKILL before StopContainer says that it does not. */
const killTimeoutMs = 30_000;

export const newId = (): string => randomBytes(32).toString('hex');

/**
 * Creates a container in a sandbox: everything that can be refused is refused here; nothing runs before startContainer().
 *
 * A call for a name that is being created joins; for one that was created meanwhile it gives that id.
 * @throws {BerthError} with the step that failed; then nothing of it is left.
 */
export function createContainer(deps: EngineDeps, sandboxId: string, spec: ContainerSpec, image: ContainerImage): Promise<string> {
  const { name, attempt } = spec.metadata;
  return deps.singleflight.join(`container ${sandboxId} ${name} ${attempt}`, async () => {
    const sandbox = readySandbox(deps, sandboxId);
    const existing = deps.store.containers
      .all()
      .find(({ record }) => record.sandboxId === sandbox.record.id && record.spec.metadata.name === name && record.spec.metadata.attempt === attempt);
    if (existing === undefined) return makeContainer(deps, sandbox, spec, image);
    if (containerState(existing.status) === 'created') return existing.record.id;
    throw new BerthError(
      'ALREADY_EXISTS',
      `creating container ${name}: attempt ${attempt} in this sandbox is there, ${containerState(existing.status)}`,
    );
  });
}

function readySandbox(deps: EngineDeps, id: string): SandboxView {
  const sandbox = deps.store.sandboxes.get(id);
  if (sandbox === undefined || sandboxState(sandbox.status) === 'creating') throw notFound(`sandbox ${id} not found`);
  if (sandboxState(sandbox.status) !== 'ready') throw failedPrecondition(`sandbox ${id} is not ready: it was stopped`);
  return sandbox;
}

async function makeContainer(deps: EngineDeps, sandbox: SandboxView, asked: ContainerSpec, image: ContainerImage): Promise<string> {
  const id = newId();
  const spec = { ...asked, resources: withBlockio(deps, sandbox, asked) };
  const { step, timeline } = createStopwatch(deps);
  deps.layers.lease(id, diffIdsOf(spec, image));
  try {
    await ensureAppArmorProfile(spec.security.appArmorProfile);
    const root = await step('create.root', () => {
      const { user: ids } = sandbox.record.spec.namespaces;
      deps.rootfs.create(id, image.layerDirs, { ...(ids ? { ids } : {}), ...diskLimit(sandbox.record.spec, spec) });
      return deps.rootfs.open(id, image.layerDirs, sandboxPaths(deps, sandbox.record).pins.user);
    });
    // It may have been stopped while the root was made; from here to the end nothing else runs.
    readySandbox(deps, sandbox.record.id);
    const record = composeRecord(deps, id, sandbox, spec, image, root);
    deps.store.containers.create(record, { resources: spec.resources });
    await step('create.cgroup', () => prepareCgroup(deps, record, record.spec.resources));
    step('create.plan', () => {
      const { plan, registers } = openContainer(deps, { record, status: { resources: spec.resources } }, sandbox, root);
      registers.closeAll();
      encodePlan(plan);
    });
    deps.store.containers.update(id, (status) => ({ ...status, readyAtNs: deps.clock.nowNs(), timeline: timeline() }));
    return id;
  } catch (error) {
    await discard(deps, id).catch((leftover: unknown) => deps.log.warn({ id, reason: reasonOf(leftover) }, 'left for recovery'));
    throw failedTo(`creating container ${spec.metadata.name}`, error);
  }
}

/** What the request names stands over what the annotations' class gives. */
function withBlockio({ blockio, cgroups }: EngineDeps, { record }: SandboxView, { metadata, annotations, resources }: ContainerSpec): Resources {
  const name = blockioClassOf(metadata.name, annotations, record.spec.annotations);
  if (blockio === null || name === undefined) return resources;
  return mergeResources({ unified: blockioValues(blockio, name, disksLike, ioWeightFile(cgroups)) }, resources);
}

/** Of all layers that a container stands on: its own image's, and those of images that are its volumes. */
export function diffIdsOf(spec: ContainerSpec, image: ContainerImage): string[] {
  return [...new Set([...image.diffIds, ...spec.mounts.flatMap((mount) => mount.image?.found?.diffIds ?? [])])];
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
    createdAtNs: deps.clock.nowNs(),
  };
}

/** Those that its devices need, too. */
function withGroups({ security, edits }: ContainerSpec): UserSpec {
  const { user } = security;
  return edits === undefined ? user : { ...user, supplementalGroups: [...user.supplementalGroups, ...edits.gids] };
}

/**
 * Starts a created container; answers when its program has been executed.
 *
 * @throws {BerthError} FAILED_PRECONDITION for one that is not CREATED; with the failing operation's text when it cannot be started: it is EXITED then.
 */
export function startContainer(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, async () => {
    const view = containerOf(deps, id);
    const state = containerState(view.status);
    if (state !== 'created') throw failedPrecondition(`starting container ${id}: it is ${state}`);
    const sandbox = readySandbox(deps, view.record.sandboxId);
    const attempt = `starting container ${view.record.spec.metadata.name}`;
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

async function launch(deps: EngineDeps, view: ContainerView, sandbox: SandboxView, { step, timeline }: Stopwatch): Promise<void> {
  const { record } = view;
  const { id } = record;
  const root = await step('start.root', () => deps.rootfs.open(id, record.image.layerDirs, sandboxPaths(deps, sandbox.record).pins.user));
  const { plan, registers } = step('start.plan', () => openContainer(deps, view, sandbox, root));
  const spawned = monitorPlacer(deps, view);
  if (hasStartHooks(record.spec)) makeBundle(deps, record);
  const starting = step('start.monitor', (span) => {
    const ran: MonitorRequest['ran'] = (told) => {
      saveRun(deps, id, told.run);
      addPlanParts(span, plan, told);
    };
    const held = async (pid: number) => {
      await step('start.hooks', () => runHooks(deps, view.record, ['prestart', 'createRuntime', 'createContainer'], pid));
      writeSync(registers.fdOf(goReg), '.');
    };
    return startMonitor(deps, { plan, fds: registers.fds, name: id, spawned, ran, held }).finally(registers.closeAll);
  });
  // While the monitor works.
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
  await runHooksAnyway(deps, record, 'poststart', started.pid);
}

/** When it is too late for their failure to change anything. */
async function runHooksAnyway(deps: EngineDeps, record: ContainerRecord, point: 'poststart' | 'poststop', pid: number): Promise<void> {
  await runHooks(deps, record, [point], pid).catch((error: unknown) => deps.log.warn({ id: record.id, reason: reasonOf(error) }, 'a hook failed'));
}

/** A process that is over already has no start time, and is never found alive. */
function identify(pid: number): ProcessIdentity {
  return { pid, startTime: processStartTime(pid) ?? '' };
}

/** Ends what a start that failed, or was cut off, has begun, and makes the container EXITED. @param timeline of what the start has done. */
export async function recordStartFailure(deps: EngineDeps, id: string, message: string, timeline: Timeline = {}): Promise<void> {
  const cgroupPath = deps.store.containers.get(id)?.record.cgroupPath;
  if (cgroupPath === undefined) return;
  // Before the status says EXITED. The monitor of a start that was cut off has ended with its daemon, or has put the process here.
  const left = await killCgroup(deps.cgroups, cgroupPath, killTimeoutMs);
  if (left.length > 0) deps.log.warn({ id, pids: left }, 'processes of a container that did not start do not die');
  const unwritten = deps.store.containers.updateBestEffort(id, (status) => {
    const now = deps.clock.nowNs();
    const times = { startedAtNs: status.startedAtNs ?? now, finishedAtNs: now, timeline: { ...status.timeline, ...timeline } };
    return { ...status, ...times, ...startFailure, message };
  });
  if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, "a container's failed start is not on disk yet");
  deps.rootfs.release(id);
  await deps.cgroupDriver
    .remove(cgroupPath)
    .catch((error: unknown) => deps.log.warn({ id, reason: reasonOf(error) }, 'left for the removal of the container'));
}

/**
 * Stops a running container: its stop signal, then SIGKILL after `timeoutMs`; 0 kills at once. Returns when the status says EXITED.
 *
 * A stop during another does not send the signal again, but its shorter timeout holds. Anything that does not run is stopped already.
 * @throws {BerthError} DEADLINE_EXCEEDED naming the processes when they do not die of SIGKILL.
 */
export async function stopContainer(deps: EngineDeps, id: string, timeoutMs: number): Promise<void> {
  // After a start that is under way; the wait itself must not hold up others.
  await deps.queue.run(id, async () => {});
  await endContainer(deps, id, timeoutMs);
}

async function endContainer(deps: EngineDeps, id: string, timeoutMs: number): Promise<void> {
  const view = deps.store.containers.get(id);
  const watch = deps.watches.of(id);
  // Of a record that cannot be read, nobody knows the process, let alone its stop signal.
  if (view !== undefined && containerState(view.status) === 'unknown') return killAll(deps, view, 'stopping');
  if (view === undefined || watch === undefined || containerState(view.status) !== 'running') return;
  const isFirst = !watch.stopping.signal.aborted;
  // A checkpoint holds the processes still: it ends first.
  watch.stopping.abort(failedPrecondition('it was stopped meanwhile'));
  if (timeoutMs > 0) {
    if (isFirst) signalContainer(view, view.record.stopSignal);
    if (await endsWithin(timeoutMs, watch.exited)) return watch.exited;
  }
  signalContainer(view, SIGKILL);
  // Without a pid namespace of its own, the end of the first process is not the end of the others.
  if (view.record.spec.security.namespaces.pid !== 'container') await killCgroup(deps.cgroups, view.record.cgroupPath, killTimeoutMs);
  if (await endsWithin(killTimeoutMs, watch.exited)) return watch.exited;
  throw undying('stopping', id, await processes(deps.cgroups, view.record.cgroupPath));
}

const undying = (attempt: string, id: string, pids: readonly number[]) =>
  new BerthError('DEADLINE_EXCEEDED', `${attempt} container ${id}: processes ${pids.join(', ')} do not die of SIGKILL`);

/** @throws {BerthError} DEADLINE_EXCEEDED naming what does not die. */
async function killAll(deps: EngineDeps, view: ContainerView, attempt: string): Promise<void> {
  for (const path of await cgroupsOf(deps, view)) {
    const left = await killCgroup(deps.cgroups, path, killTimeoutMs);
    if (left.length > 0) throw undying(attempt, view.record.id, left);
  }
}

/** A record that cannot be read does not say where its cgroup is; the id names it, wherever it is. */
async function cgroupsOf(deps: EngineDeps, { record, status }: ContainerView): Promise<readonly string[]> {
  return status.unreadableReason === undefined ? [record.cgroupPath] : deps.cgroupDriver.find(record.id);
}

function signalContainer({ status }: ContainerView, signal: number): void {
  const { process } = status;
  if (process === undefined) return;
  try {
    const pidfd = pidfdOpen(process.pid);
    try {
      // The pidfd is of whoever has the pid now: the start time tells whether it is still ours.
      if (processStartTime(process.pid) === process.startTime) pidfdSendSignal(pidfd, signal);
    } finally {
      close(pidfd);
    }
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

/** Checkpoints of one container come one after another; its removal waits for them. */
export const checkpointKey = (id: string): string => `checkpoint ${id}`;

/** Removes a container and what it wrote, killing it first; its logs stay. Idempotent. */
export function removeContainer(deps: EngineDeps, id: string): Promise<void> {
  return deps.queue.run(id, async () => {
    await endContainer(deps, id, 0);
    await deps.queue.run(checkpointKey(id), async () => {});
    await discard(deps, id);
  });
}

/** Removes all that is left of a container, in an order that a crash between any two steps leaves repeatable. */
export async function discard(deps: EngineDeps, id: string): Promise<void> {
  const view = deps.store.containers.get(id);
  if (view !== undefined) {
    await killAll(deps, view, 'removing');
    for (const path of await cgroupsOf(deps, view)) await deps.cgroupDriver.remove(path);
  }
  if (view?.status.startingAtNs !== undefined) await runHooksAnyway(deps, view.record, 'poststop', 0);
  await deps.rootfs.remove(id);
  await deps.store.containers.remove(id);
  deps.layers.release(id);
}

/**
 * Changes a container's resources: all of them or none. Before the start they are kept for it, after the end only remembered.
 *
 * @throws {BerthError} naming file and value that the kernel refused; FAILED_PRECONDITION for a memory limit below what is in use.
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
    await deps.cgroupDriver.update(record.cgroupPath, { writes, values: planCgroup(resources, deps.cgroups) });
    // The cgroup has them: a full disk does not take them back.
    const unwritten = deps.store.containers.updateBestEffort(id, (before) => ({ ...before, resources }));
    if (unwritten !== null) deps.log.warn({ id, reason: unwritten }, "a container's resources are not on disk yet");
  });
}

/** Makes the container's monitor open its log file anew. @throws {BerthError} FAILED_PRECONDITION when it does not run. */
export async function reopenContainerLog(deps: EngineDeps, id: string): Promise<void> {
  const { status } = containerOf(deps, id);
  if (containerState(status) !== 'running') throw failedPrecondition(`reopening the log of container ${id}: it is ${containerState(status)}`);
  await reopenLog(deps.store.containers.directory(id));
}

/** @throws {BerthError} NOT_FOUND. */
export function containerOf(deps: EngineDeps, id: string): ContainerView {
  const view = deps.store.containers.get(id);
  if (view === undefined || containerState(view.status) === 'creating') throw notFound(`container ${id} not found`);
  return view;
}
