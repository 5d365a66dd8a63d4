/**
 * CPU usage as a rate, from two readings of a counter. Pure.
 */

export type CpuSample = {
  readonly usageNs: bigint;
  /** From a monotonic clock. */
  readonly atMs: number;
  /** Usage since the previous sample, in nanocores; null without a usable previous sample. */
  readonly nanoCores: number | null;
};

/** Two callers at almost the same time get the same rate, not the noise between them. */
const intervalMsMin = 1_000;
/** Older samples are not used. */
const intervalMsMax = 120_000;

/** Returns the sample to keep after a reading. A counter that went back belongs to a new cgroup. */
export function nextSample(before: CpuSample | undefined, usageNs: bigint, atMs: number): CpuSample {
  const intervalMs = before === undefined ? 0 : atMs - before.atMs;
  if (before === undefined || usageNs < before.usageNs || intervalMs > intervalMsMax) return { usageNs, atMs, nanoCores: null };
  if (intervalMs < intervalMsMin) return before;
  return { usageNs, atMs, nanoCores: Math.round((Number(usageNs - before.usageNs) * 1000) / intervalMs) };
}
