/**
 * Decides whether a request uses a proxy, by the conventions of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
 *
 * Pure: the values are arguments; never reads the environment, never resolves a name.
 */

/** The values of the environment variables of these names; '' or absent for none. */
export type ProxySettings = { readonly httpProxy?: string; readonly httpsProxy?: string; readonly noProxy?: string };

/** Reads the environment variables. Lower-case names have precedence, as in curl. */
export function proxyFromEnvironment(env: Readonly<Record<string, string | undefined>>): ProxySettings {
  const value = (name: string): string => env[name.toLowerCase()] ?? env[name] ?? '';
  return { httpProxy: value('HTTP_PROXY'), httpsProxy: value('HTTPS_PROXY'), noProxy: value('NO_PROXY') };
}

/** Returns the URL of the proxy for a request, or undefined for a direct one: to a loopback address, or to a host that NO_PROXY lists. */
export function proxyFor(url: URL, settings: ProxySettings): string | undefined {
  const proxy = url.protocol === 'https:' ? settings.httpsProxy : settings.httpProxy;
  if (proxy === undefined || proxy === '') return undefined;
  const host = url.hostname.toLowerCase();
  if (host === 'localhost' || host === '[::1]' || host.startsWith('127.')) return undefined;
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  const rules = (settings.noProxy ?? '').split(/[\s,]+/).filter((rule) => rule !== '');
  if (rules.some((rule) => matches(rule.toLowerCase(), host, port))) return undefined;
  return proxy.includes('://') ? proxy : `http://${proxy}`;
}

/**
 * A rule is `*`, `host`, `.domain`, `*.domain`, an address, or a range such as `10.0.0.0/8` or `fd00::/8`. All but ranges may have a port; an IPv6
 * address with a port is in brackets.
 */
function matches(rule: string, host: string, port: string): boolean {
  if (rule === '*') return true;
  const range = /^([0-9a-f.:]+)\/([0-9]{1,3})$/.exec(rule);
  if (range !== null) return isInRange(withoutBrackets(host), range[1] ?? '', Number(range[2]));
  const isBareIpv6 = /:.*:/.test(rule) && !rule.startsWith('[');
  const withPort = isBareIpv6 ? null : /^(.*[^:]):([0-9]+)$/.exec(rule);
  if (withPort !== null && withPort[2] !== port) return false;
  const name = withoutBrackets((withPort?.[1] ?? rule).replace(/^\*?\./, ''));
  const bareHost = withoutBrackets(host);
  return bareHost === name || bareHost.endsWith(`.${name}`) || (isBareIpv6 && isInRange(bareHost, name, 128));
}

function withoutBrackets(host: string): string {
  return host.replace(/^\[|\]$/g, '');
}

function isInRange(host: string, network: string, prefixLength: number): boolean {
  const address = toNumber(host);
  const base = toNumber(network);
  if (address === undefined || base === undefined || address.bits !== base.bits || prefixLength > base.bits) return false;
  const shift = BigInt(base.bits - prefixLength);
  return address.value >> shift === base.value >> shift;
}

function toNumber(address: string): { readonly value: bigint; readonly bits: 32 | 128 } | undefined {
  const url = URL.parse(address.includes(':') ? `http://[${address}]` : `http://${address}`);
  // The URL parser normalizes addresses and leaves names as they are.
  const text = withoutBrackets(url?.hostname ?? '');
  if (text.includes(':')) return { value: join(expand(text), 16), bits: 128 };
  const parts = text.split('.');
  if (!address.includes('.') || parts.length !== 4 || !parts.every((part) => /^[0-9]{1,3}$/.test(part))) return undefined;
  return { value: join(parts.map(Number), 8), bits: 32 };
}

/** Returns the eight groups of an IPv6 address. */
function expand(text: string): number[] {
  const [before = [], after = []] = text.split('::').map((half) => half.split(':').filter((group) => group !== ''));
  const zeros = Array.from({ length: 8 - before.length - after.length }, () => '0');
  return [...before, ...zeros, ...after].map((group) => Number.parseInt(group, 16));
}

function join(parts: readonly number[], bits: number): bigint {
  return parts.reduce((sum, part) => (sum << BigInt(bits)) | BigInt(part), 0n);
}
