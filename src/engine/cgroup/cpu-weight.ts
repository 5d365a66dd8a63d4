/**
 * Converts CPU shares of cgroup v1 to a weight of cgroup v2. Pure.
 */

const sharesMin = 2;
const sharesMax = 262_144;
const weightMax = 10_000;

/**
 * Returns the weight for a number of shares. The curve goes through (2, 1), (1024, 100) and (262144, 10000): it maps the default of v1 to that of v2.
 * It is quadratic in the logarithms. A linear conversion would give a container with a request of one CPU a weight of only 39.
 * Source: ConvertCPUSharesToCgroupV2Value of opencontainers/cgroups, since runc 1.3.3.
 */
export function weightOfShares(shares: number): number {
  if (shares <= sharesMin) return 1;
  if (shares >= sharesMax) return weightMax;
  const log = Math.log2(shares);
  const exponent = (log * log + 125 * log) / 612 - 7 / 34;
  return Math.ceil(10 ** exponent);
}
