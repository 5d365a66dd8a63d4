/**
 * How many cores something uses, from two readings of its counter. Pure.
 */

export type CpuSample = {
  readonly usageNs: bigint;
  /** Of a clock that does not jump. */
  readonly atMs: number;
  /** Use from the sample before to this one, in thousand-millionths of a core; null without one that says anything. */
  readonly nanoCores: number | null;
};

/** Two readers that come at nearly the same time get the same rate, not the noise between them. */
const intervalMsMin = 1_000;
/** What somebody asked about long ago says nothing about now. */
const intervalMsMax = 120_000;

/** The sample to keep after a reading. A counter that went back belongs to something new. */
export function nextSample(before: CpuSample | undefined, usageNs: bigint, atMs: number): CpuSample {
  const intervalMs = before === undefined ? 0 : atMs - before.atMs;
  if (before === undefined || usageNs < before.usageNs || intervalMs > intervalMsMax) return { usageNs, atMs, nanoCores: null };
  if (intervalMs < intervalMsMin) return before;
  return { usageNs, atMs, nanoCores: Math.round((Number(usageNs - before.usageNs) * 1000) / intervalMs) };
}
