/**
 * Recognizes IP addresses in text.
 *
 * Pure: never resolves a name.
 */

const ipv4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;

/** Returns 4, 6, or 0 when `text` is not an IP address. IPv6 in the notation of RFC 4291 section 2.2, without a zone. */
export function ipVersionOf(text: string): 0 | 4 | 6 {
  if (ipv4.test(text)) return 4;
  return isIpv6(text) ? 6 : 0;
}

function isIpv6(text: string): boolean {
  const halves = text.split('::');
  if (halves.length > 2) return false;
  const groups = halves.map((half) => (half === '' ? [] : half.split(':')));
  const last = groups.at(-1) as string[];
  let count = groups.flat().length;
  const tail = last.at(-1);
  if (tail !== undefined && ipv4.test(tail)) {
    // A dotted IPv4 tail replaces two groups.
    last.pop();
    count += 1;
  }
  const hasOnlyHex = groups.flat().every((group) => /^[0-9a-fA-F]{1,4}$/.test(group));
  return hasOnlyHex && (halves.length === 2 ? count < 8 : count === 8);
}
