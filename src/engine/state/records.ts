/**
 * What is stored of a sandbox and a container: a record that never changes, a status that does, and the state derived from the status. Pure.
 *
 * Both are stored as JSON with a version. Times are nanoseconds since the epoch as decimal strings, because JSON numbers are not precise enough.
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
  /** Where its network namespace is pinned; undefined with host network. */
  readonly netnsPath?: string;
  /** The sandbox's own cgroup, for its own processes or so that cAdvisor finds the pod's network; undefined if it has none. */
  readonly cgroupPath?: string;
};

export type SandboxStatus = {
  /** Set when the sandbox is complete. Before that it is not visible. */
  readonly readyAtNs?: string;
  /** Set by StopPodSandbox, or when recovery finds that its namespaces are gone. */
  readonly stoppedAtNs?: string;
  /** Absent with host network, and after the sandbox was stopped. */
  readonly network?: NetworkResult;
  /** Pid and start time of the reaper (pid 1), if the pod shares its pid namespace. */
  readonly reaper?: ProcessIdentity;
  /** How long each step of its creation took. */
  readonly timeline?: Timeline;
  /** Limits of the pod, from UpdatePodSandboxResources. */
  readonly resources?: PodResources;
  /** Why its record or status could not be read. Then the other fields are placeholders. */
  readonly unreadableReason?: string;
};

/** Resources of a whole pod: overhead, and all containers together. The kubelet writes the pod's cgroup. */
export type PodResources = { readonly overhead?: Resources; readonly resources?: Resources };

export type SandboxState = 'creating' | 'ready' | 'not-ready';

export type SandboxView = { readonly record: SandboxRecord; readonly status: SandboxStatus };

export function sandboxState(status: SandboxStatus): SandboxState {
  if (status.stoppedAtNs !== undefined || status.unreadableReason !== undefined) return 'not-ready';
  return status.readyAtNs === undefined ? 'creating' : 'ready';
}

/** Identifies a process while this kernel runs: pids are reused, pairs of pid and start time are not. */
export type ProcessIdentity = { readonly pid: number; readonly startTime: string };

/** The identity of a container's process, resolved once, when the container is created. */
export type Identity = { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[]; readonly home: string };

export type ContainerRecord = {
  readonly version: typeof recordVersion;
  readonly id: string;
  readonly sandboxId: string;
  readonly spec: ContainerSpec;
  readonly image: {
    /** Id of the image (`sha256:…`), as returned by PullImage. */
    readonly id: string;
    /** A repository digest if there is one, else the id. */
    readonly ref: string;
    /** The first tag if there is one, else the requested name. */
    readonly name: string;
    readonly config: ImageConfig;
    readonly layerDirs: readonly string[];
    /** Diff ids, topmost first. A restarted daemon leases them again. */
    readonly diffIds: readonly string[];
  };
  readonly identity: Identity;
  /** Number of the stop signal. */
  readonly stopSignal: number;
  /** The container's cgroup, relative to the root of each hierarchy. */
  readonly cgroupPath: string;
  /** Part of the name of its session keyring, as only its processes may know it. Absent in records of older versions. */
  readonly keyringSecret?: string;
  readonly createdAtNs: string;
};

export type ContainerStatus = {
  /** Set when its rootfs and its plan are ready. Before that it is not visible. */
  readonly readyAtNs?: string;
  /** Set before the monitor is started. If recovery finds it without startedAtNs, it kills whatever was started. */
  readonly startingAtNs?: string;
  readonly startedAtNs?: string;
  readonly finishedAtNs?: string;
  readonly exitCode?: number;
  /** `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`. */
  readonly reason?: string;
  readonly message?: string;
  /** The container's process and its parent, the monitor. Pids in the daemon's pid namespace. */
  readonly process?: ProcessIdentity;
  readonly monitor?: ProcessIdentity;
  /** How long each step of its creation and start took. */
  readonly timeline?: Timeline;
  /** OOM kills of its processes; absent if there were none, or the kernel log cannot be read. */
  readonly oom?: OomSummary;
  /** Current limits: those of the request, with later updates applied. */
  readonly resources: Resources;
  /** Why its record or status could not be read. Then the other fields are placeholders. */
  readonly unreadableReason?: string;
};

/** Why a started container ended. `Unknown`: its monitor was lost, and with it the exit code. */
export type EndReason = 'Completed' | 'Error' | 'OOMKilled' | 'Unknown';

export type ContainerState = 'creating' | 'created' | 'running' | 'exited' | 'unknown';

export type ContainerView = { readonly record: ContainerRecord; readonly status: ContainerStatus };

export function containerState(status: ContainerStatus): ContainerState {
  if (status.unreadableReason !== undefined) return 'unknown';
  if (status.finishedAtNs !== undefined) return 'exited';
  if (status.startedAtNs !== undefined) return 'running';
  return status.readyAtNs === undefined ? 'creating' : 'created';
}
