/**
 * What is kept of a sandbox and a container: a record that never changes, a status that does, and the state derived from both. Pure.
 *
 * Both are on disk as JSON with a version; times are nanoseconds since the epoch as decimal text, for JSON has no integer wide enough.
 */
import type { OomSummary } from './oom-kill.ts';
import type { ContainerSpec, ImageConfig, NetworkResult, Resources, SandboxSpec } from './spec.ts';
import type { Timeline } from './timeline.ts';

export const recordVersion = 1;

export type SandboxRecord = {
  readonly version: typeof recordVersion;
  readonly id: string;
  readonly spec: SandboxSpec;
  readonly createdAtNs: string;
  /** Where its net namespace is pinned; undefined with the host's network. */
  readonly netnsPath?: string;
  /** Of its own cgroup, for its own processes or for what looks for a pod's network; undefined when it has none. */
  readonly cgroupPath?: string;
};

export type SandboxStatus = {
  /** Set once all of it is there. Before that it is not shown to anybody. */
  readonly readyAtNs?: string;
  /** Set by StopPodSandbox, or when it was found without its namespaces. */
  readonly stoppedAtNs?: string;
  /** Absent with the host's network, and after the sandbox was stopped. */
  readonly network?: NetworkResult;
  /** Pid and start time of the process that reaps, when the pod shares its pid namespace. */
  readonly reaper?: ProcessIdentity;
  /** What making it took. */
  readonly timeline?: Timeline;
  /** What the kubelet has told since. */
  readonly resources?: PodResources;
  /** Why its record or its status could not be read: then the rest of both is made up. */
  readonly unreadableReason?: string;
};

/** Of a whole pod: for its runtime, and for its containers. Its cgroup is the kubelet's. */
export type PodResources = { readonly overhead?: Resources; readonly resources?: Resources };

export type SandboxState = 'creating' | 'ready' | 'not-ready';

export type SandboxView = { readonly record: SandboxRecord; readonly status: SandboxStatus };

export function sandboxState(status: SandboxStatus): SandboxState {
  if (status.stoppedAtNs !== undefined || status.unreadableReason !== undefined) return 'not-ready';
  return status.readyAtNs === undefined ? 'creating' : 'ready';
}

/** A process, for as long as this kernel runs: pids come again, start times with them do not. */
export type ProcessIdentity = { readonly pid: number; readonly startTime: string };

/** Who the process of a container is: resolved once, when the container is created. */
export type Identity = { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[]; readonly home: string };

export type ContainerRecord = {
  readonly version: typeof recordVersion;
  readonly id: string;
  readonly sandboxId: string;
  readonly spec: ContainerSpec;
  readonly image: {
    /** Id of the image (`sha256:…`), as PullImage gave it. */
    readonly id: string;
    /** A repository digest when there is one, else the id. */
    readonly ref: string;
    /** The first tag when there is one, else what was requested. */
    readonly name: string;
    readonly config: ImageConfig;
    readonly layerDirs: readonly string[];
    /** Diff ids, topmost first: what a restarted daemon leases again. */
    readonly diffIds: readonly string[];
  };
  readonly identity: Identity;
  /** Number of the signal that stops it. */
  readonly stopSignal: number;
  /** Of its own cgroup, relative to the root of each hierarchy. */
  readonly cgroupPath: string;
  readonly createdAtNs: string;
};

export type ContainerStatus = {
  /** Set once its root and its plan are good. Before that it is not shown to anybody. */
  readonly readyAtNs?: string;
  /** Set before its monitor is started: whoever finds it without startedAtNs after a crash ends what may have begun. */
  readonly startingAtNs?: string;
  readonly startedAtNs?: string;
  readonly finishedAtNs?: string;
  readonly exitCode?: number;
  /** `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`. */
  readonly reason?: string;
  readonly message?: string;
  /** The container's process and the monitor that is its parent, as pids of the daemon's namespace. */
  readonly process?: ProcessIdentity;
  readonly monitor?: ProcessIdentity;
  /** What creating and starting it took. */
  readonly timeline?: Timeline;
  /** Of its processes that were killed for want of memory; absent when there are none, or the kernel's log cannot be read. */
  readonly oom?: OomSummary;
  /** In force now: those of the request, with what updates changed. */
  readonly resources: Resources;
  /** Why its record or its status could not be read: then the rest of both is made up. */
  readonly unreadableReason?: string;
};

/** Why a container that had started ended. `Unknown`: its monitor was lost, and its exit code with it. */
export type EndReason = 'Completed' | 'Error' | 'OOMKilled' | 'Unknown';

export type ContainerState = 'creating' | 'created' | 'running' | 'exited' | 'unknown';

export type ContainerView = { readonly record: ContainerRecord; readonly status: ContainerStatus };

export function containerState(status: ContainerStatus): ContainerState {
  if (status.unreadableReason !== undefined) return 'unknown';
  if (status.finishedAtNs !== undefined) return 'exited';
  if (status.startedAtNs !== undefined) return 'running';
  return status.readyAtNs === undefined ? 'creating' : 'created';
}
