/**
 * Parses the interface counters of /proc/net/dev. Pure.
 */

export type InterfaceCounters = { readonly name: string; readonly receive: PacketCounters; readonly transmit: PacketCounters };
export type PacketCounters = { readonly bytes: number; readonly packets: number; readonly errors: number; readonly dropped: number };

/** Returns all interfaces except loopback, in the kernel's order. Columns, from net/core/net-procfs.c: eight for receive, eight for transmit. */
export function parseNetDev(text: string): InterfaceCounters[] {
  return text.split('\n').flatMap((line) => {
    // There may be no space between the colon and the first counter. A name contains a colon only for an old alias, which has no counters.
    const colon = line.indexOf(':');
    if (colon < 0) return [];
    const name = line.slice(0, colon).trim();
    const columns = line
      .slice(colon + 1)
      .trim()
      .split(/\s+/)
      .map(Number);
    if (name === 'lo' || columns.length < 16) return [];
    return [{ name, receive: packetsAt(columns, 0), transmit: packetsAt(columns, 8) }];
  });
}

function packetsAt(columns: readonly number[], first: number): PacketCounters {
  const [bytes = 0, packets = 0, errors = 0, dropped = 0] = columns.slice(first, first + 4);
  return { bytes, packets, errors, dropped };
}
