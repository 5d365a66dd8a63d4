/**
 * Converts timeouts of requests. Pure.
 */

/** The maximum of setTimeout, about 24 days: a longer timer would fire at once. */
const timerMsMax = 2 ** 31 - 1;

/** Returns a timeout in milliseconds, limited to the maximum of a timer. @param seconds from a request; unset and negative values mean 0. */
export function secondsToMs(seconds: string | undefined): number {
  return Math.min(Math.max(Number(seconds ?? 0), 0) * 1000, timerMsMax);
}
