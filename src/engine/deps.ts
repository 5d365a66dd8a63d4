/**
 * What the engine works with, built once in main.ts. Types only.
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
  /** Where net namespaces are pinned: on a shared mount, so that network agents in pods see them. */
  readonly netnsDir: string;
  readonly defaultCgroupParent: string;
  /** `daemon`, `pod`, or the parent of their cgroup as a kubelet would name it. */
  readonly monitorCgroup: string;
  readonly maxContainerLogLineSize: number;
  readonly rlimits: readonly Rlimit[];
  /** Of sandboxes with a network of their own. */
  readonly defaultSysctls: Readonly<Record<string, string>>;
  readonly networkTimeoutMs: number;
  /** Whether every sandbox with a network has a cgroup of its own, in which nothing runs: cAdvisor tells a pod's network by it. */
  readonly marksNetworks: boolean;
  readonly criu: CriuSettings;
};

/** Keeps layers from being collected while a container stands on them. */
export type LayerLeases = { readonly lease: (ownerId: string, diffIds: readonly string[]) => void; readonly release: (ownerId: string) => void };

export type EngineDeps = StepWatchers & {
  readonly settings: EngineSettings;
  readonly facts: HostFacts;
  /** Null when pods can have user namespaces, else what this node lacks. */
  readonly userNamespaceFailure: string | null;
  readonly cgroups: CgroupFacts;
  readonly cgroupDriver: CgroupDriver;
  /** Tells `events` of what it shows. */
  readonly store: Store;
  readonly events: Events;
  readonly rootfs: RootfsDriver;
  readonly monitor: MonitorBinary;
  readonly seccomp: SeccompFilters;
  readonly network: Network;
  readonly layers: LayerLeases;
  /** Null: annotations that ask for a class count for nothing. */
  readonly blockio: BlockioClasses | null;
  readonly oomKills: OomKills;
  /** For metrics: called at the end of each container that had started. */
  readonly observeEnd?: (reason: EndReason) => void;
  readonly watches: Watches;
  readonly singleflight: Singleflight;
  readonly queue: KeyedQueue;
  readonly clock: Clock;
  readonly log: Log;
};
