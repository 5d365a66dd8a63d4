/**
 * CPU shares of cgroup v1 as a weight of cgroup v2. Pure.
 */

const sharesMin = 2;
const sharesMax = 262_144;
const weightMax = 10_000;

/**
 * The weight for a number of shares: a curve through (2, 1), (1024, 100) and (262144, 10000), so that the default of one is the default
 * of the other. The curve is quadratic in the logarithms; a straight line would give a container with one CPU asked for a weight of 39.
 * Source of the curve: opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value, since runc 1.3.3.
 */
export function weightOfShares(shares: number): number {
  if (shares <= sharesMin) return 1;
  if (shares >= sharesMax) return weightMax;
  const log = Math.log2(shares);
  const exponent = (log * log + 125 * log) / 612 - 7 / 34;
  return Math.ceil(10 ** exponent);
}
