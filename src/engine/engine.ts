/**
 * The engine as its callers see it: sandboxes and containers by id or unambiguous prefix, and what can be done with them.
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

/** What of the node its callers ask for. */
export type EngineFacts = Pick<HostFacts, 'canMountRecursivelyReadonly' | 'hasAppArmor' | 'hasSelinux'> & {
  /** Null when sandboxes can run, else what is missing. */
  readonly notReadyReason: string | null;
  /** Whether pods can have user namespaces. */
  readonly hasUserNamespaces: boolean;
  readonly cgroupDriver: CgroupDriver['name'];
};

/** An id may be given as a prefix that only one object has; what is being created is not shown. */
export type Engine = {
  readonly facts: () => EngineFacts;
  readonly runSandbox: (spec: SandboxSpec) => Promise<string>;
  /** Succeeds for one that is not there, like the next two. */
  readonly stopSandbox: (id: string) => Promise<void>;
  readonly removeSandbox: (id: string) => Promise<void>;
  /** Keeps what a pod may take in all. What is not in `change` stays. */
  readonly updateSandboxResources: (id: string, change: PodResources) => Promise<void>;
  readonly sandboxes: () => readonly SandboxView[];
  /** @throws {BerthError} NOT_FOUND; INVALID_ARGUMENT for a prefix of several. */
  readonly sandbox: (id: string) => SandboxView;
  readonly createContainer: (sandboxId: string, spec: ContainerSpec, image: ContainerImage) => Promise<string>;
  readonly startContainer: (id: string) => Promise<void>;
  readonly stopContainer: (id: string, timeoutMs: number) => Promise<void>;
  readonly removeContainer: (id: string) => Promise<void>;
  readonly containers: () => readonly ContainerView[];
  /** @throws {BerthError} as sandbox(). */
  readonly container: (id: string) => ContainerView;
  /** @param timeoutMs 0: none. */
  readonly execSync: (id: string, argv: readonly string[], timeoutMs: number, signal: AbortSignal) => Promise<ExecResult>;
  /** Runs a program for somebody who talks to it. */
  readonly exec: (id: string, request: SessionRequest) => Promise<ProcessStreams>;
  /** The streams of the container's own process, from now on. */
  readonly attach: (id: string, wanted: WantedStreams) => Promise<ProcessStreams>;
  /** Connects to a port of a sandbox's loopback. */
  readonly connectPort: (sandboxId: string, port: number) => Promise<Duplex>;
  readonly reopenLog: (id: string) => Promise<void>;
  readonly updateResources: (id: string, resources: Resources) => Promise<void>;
  /** Writes a running container into an archive. */
  readonly checkpoint: (id: string, request: CheckpointRequest) => Promise<void>;
  /** What running containers and ready sandboxes use. */
  readonly stats: Stats;
  /** The same with all that metrics tell besides. */
  readonly podMetrics: PodMetrics;
  /** What becomes of sandboxes and containers from now on, until the signal. @throws {BerthError} RESOURCE_EXHAUSTED, as Events.listen(). */
  readonly events: (signal: AbortSignal) => AsyncIterable<LifeEvent>;
  /** What people may want to know of a sandbox or a container, by topic, for JSON. No environment values. */
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
    }),
    sandboxes: listedSandboxes,
    sandbox,
    containers: listedContainers,
    container,
    runSandbox: (spec) => runSandbox(deps, spec),
    stopSandbox: async (id) => ifThere(sandboxId, id, (whole) => stopSandbox(deps, whole)),
    removeSandbox: async (id) => ifThere(sandboxId, id, (whole) => removeSandbox(deps, whole)),
    updateSandboxResources: async (id, change) => updateSandboxResources(deps, sandboxId(id), change),
    createContainer: async (id, spec, image) => createContainer(deps, sandboxId(id), spec, image),
    startContainer: async (id) => startContainer(deps, containerId(id)),
    stopContainer: async (id, timeoutMs) => ifThere(containerId, id, (whole) => stopContainer(deps, whole, timeoutMs)),
    removeContainer: async (id) => ifThere(containerId, id, (whole) => removeContainer(deps, whole)),
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

/** The object of this id, or the only one whose id begins so. */
function pick<View extends { readonly record: { readonly id: string } }>(
  what: string,
  id: string,
  exact: View | undefined,
  listed: () => readonly View[],
): View {
  const views = listed();
  if (exact !== undefined && views.includes(exact)) return exact;
  const matches = id === '' ? [] : views.filter(({ record }) => record.id.startsWith(id));
  if (matches.length > 1) throw invalidArgument(`${what} id ${id} is ambiguous: it begins ${matches.length} ids`);
  const [only] = matches;
  if (only === undefined) throw notFound(`${what} ${id} not found`);
  return only;
}

/** Stopping and removing what is not there has been done already. */
async function ifThere(resolve: (id: string) => string, id: string, action: (id: string) => Promise<void>): Promise<void> {
  let whole: string;
  try {
    whole = resolve(id);
  } catch (error) {
    if (error instanceof BerthError && error.code === 'NOT_FOUND') return;
    throw error;
  }
  await action(whole);
}

function explainSandbox(deps: EngineDeps, { record, status }: SandboxView): Readonly<Record<string, unknown>> {
  const { pins, directory } = sandboxPaths(deps, record);
  const info = {
    // Those who look for a pause process find the reaper, or none.
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

/** Where the file system counts it. */
function diskUse(
  { rootfs }: EngineDeps,
  id: string,
): { readonly disk?: { readonly usedBytes: number; readonly inodes: number; readonly limitBytes: number | null } } {
  const use = rootfs.usage(id);
  return use === null ? {} : { disk: { usedBytes: use.bytes, inodes: use.inodes, limitBytes: use.limitBytes || null } };
}

/** What the status does not show: it has what was requested by path. */
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
  const kept = readSavedPlan(deps, record.id);
  const { oom } = status;
  return { info, timeline: status.timeline ?? {}, ...(oom ? { oom } : {}), ...kept };
}
