/**
 * The engine's interface: operations on sandboxes and containers, which are named by id or by an unambiguous prefix of it.
 */
import type { Duplex } from 'node:stream';
import { BerthError, invalidArgument, notFound } from '../lib/errors.ts';
import type { HostFacts } from '../sys/host.ts';
import { type CheckpointRequest, checkpointContainer } from './checkpoint/checkpoint.ts';
import type { EngineDeps } from './deps.ts';
import { attachContainer } from './exec/attach.ts';
import { type ExecResult, execSync } from './exec/exec.ts';
import { type SessionRequest, startExecSession } from './exec/exec-session.ts';
import { connectPort } from './exec/port-connect.ts';
import type { ProcessStreams, WantedStreams } from './exec/process-streams.ts';
import type { CgroupDriver } from './lifecycle/cgroup-driver.ts';
import {
  type ContainerImage,
  createContainer,
  removeContainer,
  reopenContainerLog,
  startContainer,
  stopContainer,
  updateContainerResources,
} from './lifecycle/container.ts';
import { removeSandbox, runSandbox, stopSandbox, updateSandboxResources } from './lifecycle/sandbox.ts';
import { readSavedPlan } from './lifecycle/saved-plan.ts';
import { sandboxPaths } from './sources/sandbox-paths.ts';
import type { LifeEvent } from './state/events.ts';
import { type ContainerView, containerState, type PodResources, type SandboxView, sandboxState } from './state/records.ts';
import type { ContainerSpec, Resources, SandboxSpec } from './state/spec.ts';
import { createPodMetrics, type PodMetrics } from './usage/pod-metrics.ts';
import { createStats, type Stats } from './usage/stats.ts';

/** Facts about the node that callers need. */
export type EngineFacts = Pick<HostFacts, 'canMountRecursivelyReadonly' | 'hasAppArmor' | 'hasSelinux'> & {
  /** Null if sandboxes can run, else what is missing. */
  readonly notReadyReason: string | null;
  /** Whether pods can have user namespaces. */
  readonly hasUserNamespaces: boolean;
  readonly cgroupDriver: CgroupDriver['name'];
  /** Whether containers can have cgroup namespaces of their own: cgroup v2. */
  readonly hasCgroupNamespaces: boolean;
  /** Whether the kernel protects the limits of a cgroup from the processes in its namespace: nsdelegate. */
  readonly hasDelegatedCgroups: boolean;
};

/** An id may be a prefix that matches one object only. Objects that are still being created are not visible. */
export type Engine = {
  readonly facts: () => EngineFacts;
  readonly runSandbox: (spec: SandboxSpec) => Promise<string>;
  /** Succeeds if the sandbox does not exist, as do removeSandbox, stopContainer and removeContainer. */
  readonly stopSandbox: (id: string) => Promise<void>;
  readonly removeSandbox: (id: string) => Promise<void>;
  /** Records the resource limits of the whole pod. Fields that `change` does not have are kept. */
  readonly updateSandboxResources: (id: string, change: PodResources) => Promise<void>;
  readonly sandboxes: () => readonly SandboxView[];
  /** @throws {BerthError} NOT_FOUND; INVALID_ARGUMENT for an ambiguous prefix. */
  readonly sandbox: (id: string) => SandboxView;
  readonly createContainer: (sandboxId: string, spec: ContainerSpec, image: ContainerImage) => Promise<string>;
  readonly startContainer: (id: string) => Promise<void>;
  readonly stopContainer: (id: string, timeoutMs: number) => Promise<void>;
  readonly removeContainer: (id: string) => Promise<void>;
  readonly containers: () => readonly ContainerView[];
  /** @throws {BerthError} as sandbox(). */
  readonly container: (id: string) => ContainerView;
  /** @param timeoutMs 0: no timeout. */
  readonly execSync: (id: string, argv: readonly string[], timeoutMs: number, signal: AbortSignal) => Promise<ExecResult>;
  /** Runs a program with its streams connected to a client. */
  readonly exec: (id: string, request: SessionRequest) => Promise<ProcessStreams>;
  /** Returns the streams of the container's first process, from now on. */
  readonly attach: (id: string, wanted: WantedStreams) => Promise<ProcessStreams>;
  /** Connects to a port on a sandbox's loopback interface. */
  readonly connectPort: (sandboxId: string, port: number) => Promise<Duplex>;
  readonly reopenLog: (id: string) => Promise<void>;
  readonly updateResources: (id: string, resources: Resources) => Promise<void>;
  /** Writes a checkpoint of a running container to an archive. */
  readonly checkpoint: (id: string, request: CheckpointRequest) => Promise<void>;
  /** Resource usage of running containers and ready sandboxes. */
  readonly stats: Stats;
  /** The same, with everything else that the metrics contain. */
  readonly podMetrics: PodMetrics;
  /** Lifecycle events from now on, until the signal is aborted. @throws {BerthError} RESOURCE_EXHAUSTED, as Events.listen(). */
  readonly events: (signal: AbortSignal) => AsyncIterable<LifeEvent>;
  /** Verbose information about a sandbox or a container, by topic, for JSON. Contains no values of environment variables. */
  readonly explain: (id: string) => Readonly<Record<string, unknown>>;
};

export function createEngine(deps: EngineDeps): Engine {
  const { sandboxes, containers } = deps.store;
  const listedSandboxes = () => sandboxes.all().filter(({ status }) => sandboxState(status) !== 'creating');
  const listedContainers = () => containers.all().filter(({ status }) => containerState(status) !== 'creating');
  const sandbox = (id: string) => pick('sandbox', id, sandboxes.get(id), listedSandboxes);
  const container = (id: string) => pick('container', id, containers.get(id), listedContainers);
  const sandboxId = (id: string) => sandbox(id).record.id;
  const containerId = (id: string) => container(id).record.id;
  const stats = createStats(deps);
  return {
    facts: () => ({
      ...deps.facts,
      notReadyReason: deps.facts.overlayFailure,
      hasUserNamespaces: deps.userNamespaceFailure === null,
      cgroupDriver: deps.cgroupDriver.name,
      hasCgroupNamespaces: deps.cgroups.version === 2,
      hasDelegatedCgroups: deps.cgroups.version === 2 && deps.cgroups.hasNsDelegate,
    }),
    sandboxes: listedSandboxes,
    sandbox,
    containers: listedContainers,
    container,
    runSandbox: (spec) => runSandbox(deps, spec),
    stopSandbox: async (id) => ifPresent(sandboxId, id, (fullId) => stopSandbox(deps, fullId)),
    removeSandbox: async (id) => ifPresent(sandboxId, id, (fullId) => removeSandbox(deps, fullId)),
    updateSandboxResources: async (id, change) => updateSandboxResources(deps, sandboxId(id), change),
    createContainer: async (id, spec, image) => createContainer(deps, sandboxId(id), spec, image),
    startContainer: async (id) => startContainer(deps, containerId(id)),
    stopContainer: async (id, timeoutMs) => ifPresent(containerId, id, (fullId) => stopContainer(deps, fullId, timeoutMs)),
    removeContainer: async (id) => ifPresent(containerId, id, (fullId) => removeContainer(deps, fullId)),
    execSync: async (id, argv, timeoutMs, signal) => execSync(deps, containerId(id), { argv, timeoutMs, signal }),
    exec: async (id, request) => startExecSession(deps, containerId(id), request),
    attach: async (id, wanted) => attachContainer(deps, containerId(id), wanted),
    connectPort: async (id, port) => connectPort(deps, sandboxId(id), port),
    reopenLog: async (id) => reopenContainerLog(deps, containerId(id)),
    updateResources: async (id, resources) => updateContainerResources(deps, containerId(id), resources),
    checkpoint: async (id, request) => checkpointContainer(deps, containerId(id), request),
    stats,
    podMetrics: createPodMetrics(deps, stats),
    events: (signal) => deps.events.listen(signal),
    explain: (id) => (sandboxes.get(id) === undefined ? explainContainer(deps, container(id)) : explainSandbox(deps, sandbox(id))),
  };
}

/** Returns the object with this id, or the only one whose id starts with it. */
function pick<View extends { readonly record: { readonly id: string } }>(
  what: string,
  id: string,
  exact: View | undefined,
  listed: () => readonly View[],
): View {
  const views = listed();
  if (exact !== undefined && views.includes(exact)) return exact;
  const matches = id === '' ? [] : views.filter(({ record }) => record.id.startsWith(id));
  if (matches.length > 1) throw invalidArgument(`${what} id ${id} is ambiguous: ${matches.length} ids start with it`);
  const [only] = matches;
  if (only === undefined) throw notFound(`${what} ${id} not found`);
  return only;
}

/** Does nothing if the object does not exist: stop and remove are idempotent. */
async function ifPresent(resolve: (id: string) => string, id: string, action: (id: string) => Promise<void>): Promise<void> {
  let fullId: string;
  try {
    fullId = resolve(id);
  } catch (error) {
    if (error instanceof BerthError && error.code === 'NOT_FOUND') return;
    throw error;
  }
  await action(fullId);
}

function explainSandbox(deps: EngineDeps, { record, status }: SandboxView): Readonly<Record<string, unknown>> {
  const { pins, directory } = sandboxPaths(deps, record);
  const info = {
    // Tools that look for a pause process get the reaper, or 0.
    pid: status.reaper?.pid ?? 0,
    netnsPath: record.netnsPath ?? '',
    directory,
    namespaces: pins,
    cniResult: status.network?.cniResult ?? null,
    overhead: status.resources?.overhead ?? null,
    resources: status.resources?.resources ?? null,
  };
  return { info, timeline: status.timeline ?? {} };
}

/** Disk usage, where a project quota counts it. */
function diskUse(
  { rootfs }: EngineDeps,
  id: string,
): { readonly disk?: { readonly usedBytes: number; readonly inodes: number; readonly limitBytes: number | null } } {
  const use = rootfs.usage(id);
  return use === null ? {} : { disk: { usedBytes: use.bytes, inodes: use.inodes, limitBytes: use.limitBytes || null } };
}

/** CDI devices and their hooks. The status only shows devices requested by path. */
function devicesOf({ edits }: ContainerSpec): { readonly devices?: { readonly names: readonly string[]; readonly hooks: readonly string[] } } {
  return edits === undefined ? {} : { devices: { names: edits.names, hooks: edits.hooks.map(({ point, path }) => `${point} ${path}`) } };
}

function explainContainer(deps: EngineDeps, { record, status }: ContainerView): Readonly<Record<string, unknown>> {
  const { cgroupPath, identity, sandboxId, image, spec } = record;
  const info = {
    sandboxID: sandboxId,
    pid: status.process?.pid ?? 0,
    monitorPid: status.monitor?.pid ?? 0,
    cgroupPath,
    identity,
    layers: image.layerDirs,
    ...devicesOf(spec),
    ...diskUse(deps, record.id),
    resources: status.resources,
  };
  const saved = readSavedPlan(deps, record.id);
  const { oom } = status;
  return { info, timeline: status.timeline ?? {}, ...(oom ? { oom } : {}), ...saved };
}
