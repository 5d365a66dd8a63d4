/**
 * Statistics of samples. Pure.
 */

/** Returns a percentile by the nearest-rank method. @param percent 0 to 100. @returns one of the samples; NaN if there are none. */
export function percentile(samples: readonly number[], percent: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
}
