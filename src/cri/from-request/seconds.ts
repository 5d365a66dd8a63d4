/**
 * Timeouts of requests. Pure.
 */

/** What setTimeout takes, about 24 days: a longer one would end at once. */
const timerMsMax = 2 ** 31 - 1;

/** @param seconds as a request has them; none or below 0 is 0. @returns milliseconds that a timer takes. */
export function secondsToMs(seconds: string | undefined): number {
  return Math.min(Math.max(Number(seconds ?? 0), 0) * 1000, timerMsMax);
}
