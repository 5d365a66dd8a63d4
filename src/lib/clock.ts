/**
 * Time for records: nanoseconds since the epoch that never go back.
 */

export type Clock = { readonly nowNs: () => string };

/** @param notBeforeNs the latest time in any record of an earlier daemon: the kubelet sorts containers by these. */
export function createClock(notBeforeNs = 0n): Clock {
  let latest = notBeforeNs;
  const nowNs = () => {
    const now = BigInt(Date.now()) * 1_000_000n;
    latest = now > latest ? now : latest + 1n;
    return latest.toString();
  };
  return { nowNs };
}
