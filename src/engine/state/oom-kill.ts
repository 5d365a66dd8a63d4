/**
 * An OOM kill as the kernel reports it, and as a container's status keeps it. Types only.
 */

/** Bytes by kind, as far as they are told. `fileBytes` is without what has no file on a disk behind it: tmpfs and shared memory. */
export type MemoryUse = {
  readonly anonBytes: number;
  readonly fileBytes: number;
  readonly shmemBytes: number;
  readonly kernelBytes?: number;
};

export type OomKill = {
  /** Of the log's record, for knowing it again. */
  readonly sequence: number;
  /** Microseconds since boot. */
  readonly atUs: number;
  /** As the host sees it. */
  readonly pid: number;
  /** At most 15 characters of the program's name, odd ones escaped. */
  readonly command: string;
  /** The cgroup of the victim; null when the kernel was sparing with words. */
  readonly cgroup: string | null;
  /** The cgroup that was at its limit; null: the node itself had no memory left. */
  readonly limitedCgroup: string | null;
  readonly limitBytes: number | null;
  /** Of all that is in the cgroup at its limit; else of the victim alone. */
  readonly memory: MemoryUse | null;
  /** Killed only because its cgroup goes down as one (memory.oom.group). */
  readonly isOfGroup: boolean;
};

/** `inner`: of a cgroup that the container has made; `outer`: of one above the pod's; `unknown`: the kernel has not said. Label of a metric. */
export type LimitHolder = 'container' | 'inner' | 'pod' | 'outer' | 'node' | 'unknown';

/** A kill as a container's status keeps it. */
export type OomVictim = OomKill & {
  readonly limit: LimitHolder;
  /** Whether it was the container's first process. */
  readonly isFirst: boolean;
  /** The container's own limit is the same as the pod's, at which it was. */
  readonly isOwnLimitToo?: boolean;
  /** As the container sees it; absent where nobody can know any more. */
  readonly pidInside?: number;
};

/** What the kernel's log told of kills in a container. */
export type OomSummary = { readonly kills: number; readonly last: OomVictim };
