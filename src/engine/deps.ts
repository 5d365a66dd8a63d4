/**
 * The engine's dependencies, built once in src/serve.ts. Types only.
 */
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { KeyedQueue } from '../lib/queue.ts';
import type { CgroupFacts } from '../sys/cgroup/cgroup-facts.ts';
import type { HostFacts } from '../sys/host.ts';
import type { BlockioClasses } from './cgroup/blockio.ts';
import type { CriuSettings } from './checkpoint/criu.ts';
import type { CgroupDriver } from './lifecycle/cgroup-driver.ts';
import type { MonitorBinary } from './monitor/monitor.ts';
import type { OomKills } from './oom/oom-kills.ts';
import type { Rlimit } from './plan/credentials.ts';
import type { RootfsDriver } from './rootfs/overlay-rootfs.ts';
import type { AppArmorProfiles } from './sources/apparmor-profiles.ts';
import type { SeccompFilters } from './sources/seccomp-filter.ts';
import type { Events } from './state/events.ts';
import type { EndReason } from './state/records.ts';
import type { Singleflight } from './state/singleflight.ts';
import type { Network } from './state/spec.ts';
import type { Store } from './state/store.ts';
import type { StepWatchers } from './state/timeline.ts';
import type { Watches } from './watches.ts';

export type EngineSettings = {
  readonly rootDir: string;
  readonly stateDir: string;
  /** Where network namespaces are pinned: a shared mount, so that network agents in pods see them. */
  readonly netnsDir: string;
  readonly defaultCgroupParent: string;
  /** `daemon`, `pod`, or a parent cgroup in the kubelet's notation. */
  readonly monitorCgroup: string;
  readonly maxContainerLogLineSize: number;
  readonly rlimits: readonly Rlimit[];
  /** For sandboxes with their own network namespace. */
  readonly defaultSysctls: Readonly<Record<string, string>>;
  readonly networkTimeoutMs: number;
  /** Whether every sandbox with a network gets an empty cgroup, by which cAdvisor finds the pod's network. */
  readonly marksNetworks: boolean;
  readonly criu: CriuSettings;
};

/** Keeps layers from being garbage-collected while a container uses them. */
export type LayerLeases = { readonly lease: (ownerId: string, diffIds: readonly string[]) => void; readonly release: (ownerId: string) => void };

export type EngineDeps = StepWatchers & {
  readonly settings: EngineSettings;
  readonly facts: HostFacts;
  /** Null if pods can have user namespaces, else what is missing on this node. */
  readonly userNamespaceFailure: string | null;
  readonly cgroups: CgroupFacts;
  readonly cgroupDriver: CgroupDriver;
  /** Publishes every visible change to `events`. */
  readonly store: Store;
  readonly events: Events;
  readonly rootfs: RootfsDriver;
  readonly monitor: MonitorBinary;
  readonly seccomp: SeccompFilters;
  readonly appArmor: AppArmorProfiles;
  readonly network: Network;
  readonly layers: LayerLeases;
  /** Null: annotations that select a class are ignored. */
  readonly blockio: BlockioClasses | null;
  readonly oomKills: OomKills;
  /** For metrics: called when a started container exits. */
  readonly observeEnd?: (reason: EndReason) => void;
  readonly watches: Watches;
  readonly singleflight: Singleflight;
  readonly queue: KeyedQueue;
  readonly clock: Clock;
  readonly log: Log;
};
