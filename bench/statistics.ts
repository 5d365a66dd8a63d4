/**
 * Figures from samples. Pure.
 */

/** @param percent 0 to 100. @returns the smallest sample that so many per cent of the samples do not exceed (nearest rank); NaN without samples. */
export function percentile(samples: readonly number[], percent: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? Number.NaN;
}
