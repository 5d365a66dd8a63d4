/**
 * An OOM kill as the kernel reports it, and as stored in a container's status. Types only.
 */

/** Bytes by kind, as far as the kernel reports them. `fileBytes` excludes tmpfs and shared memory, which have no file on disk. */
export type MemoryUse = {
  readonly anonBytes: number;
  readonly fileBytes: number;
  readonly shmemBytes: number;
  readonly kernelBytes?: number;
};

export type OomKill = {
  /** Sequence number of the log record, which identifies it. */
  readonly sequence: number;
  /** Microseconds since boot. */
  readonly atUs: number;
  /** In the host's pid namespace. */
  readonly pid: number;
  /** At most 15 characters of the program's name, special characters escaped. */
  readonly command: string;
  /** The cgroup of the victim; null if the kernel did not report it. */
  readonly cgroup: string | null;
  /** The cgroup that was at its limit; null: the node was out of memory. */
  readonly limitedCgroup: string | null;
  readonly limitBytes: number | null;
  /** Of the whole cgroup that was at its limit, or else of the victim alone. */
  readonly memory: MemoryUse | null;
  /** Killed only because its whole cgroup was (memory.oom.group). */
  readonly isOfGroup: boolean;
};

/** `inner`: a cgroup created by the container; `outer`: a cgroup above the pod's; `unknown`: not reported by the kernel. Label of a metric. */
export type LimitHolder = 'container' | 'inner' | 'pod' | 'outer' | 'node' | 'unknown';

/** A kill, as stored in a container's status. */
export type OomVictim = OomKill & {
  readonly limit: LimitHolder;
  /** Whether it was the container's first process. */
  readonly isFirst: boolean;
  /** The container's own limit equals the pod's limit, which was reached. */
  readonly isOwnLimitToo?: boolean;
  /** In the container's pid namespace; absent if it can no longer be determined. */
  readonly pidInside?: number;
};

/** The kills in a container, according to the kernel log. */
export type OomSummary = { readonly kills: number; readonly last: OomVictim };
