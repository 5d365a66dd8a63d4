/**
 * Timestamps for records: nanoseconds since the epoch, strictly increasing. No I/O.
 */

export type Clock = { readonly nowNs: () => string };

/** @param notBeforeNs latest time in the records of an earlier daemon. The kubelet sorts containers by these times, so they must not go back. */
export function createClock(notBeforeNs = 0n): Clock {
  let latest = notBeforeNs;
  const nowNs = () => {
    const now = BigInt(Date.now()) * 1_000_000n;
    latest = now > latest ? now : latest + 1n;
    return latest.toString();
  };
  return { nowNs };
}
