/**
 * Decides whether a request goes through a proxy, by the conventions of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
 *
 * Pure: the values are passed in; never reads the environment, never resolves a name.
 */

/** As the environment variables of these names; '' or absent for none. */
export type ProxySettings = { readonly httpProxy?: string; readonly httpsProxy?: string; readonly noProxy?: string };

/** @returns the proxy's URL for a request to `url`, or undefined: the loopback and what NO_PROXY names are asked directly. */
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

/** `*`, `host`, `.domain`, `*.domain`, an address, or an IPv4 range `10.0.0.0/8`; each but the range with an optional port. */
function matches(rule: string, host: string, port: string): boolean {
  if (rule === '*') return true;
  const range = /^([0-9.]+)\/([0-9]{1,2})$/.exec(rule);
  if (range !== null) return isInRange(host, range[1] ?? '', Number(range[2]));
  const withPort = /^(.*[^:]):([0-9]+)$/.exec(rule);
  if (withPort !== null && !rule.startsWith('::') && withPort[2] !== port) return false;
  const name = (withPort?.[1] ?? rule).replace(/^\*?\./, '').replace(/^\[|\]$/g, '');
  const bareHost = host.replace(/^\[|\]$/g, '');
  return bareHost === name || bareHost.endsWith(`.${name}`);
}

function isInRange(host: string, network: string, prefixLength: number): boolean {
  const address = toNumber(host);
  const base = toNumber(network);
  if (address === undefined || base === undefined || prefixLength > 32) return false;
  const size = 2 ** (32 - prefixLength);
  return Math.floor(address / size) === Math.floor(base / size);
}

function toNumber(ipv4: string): number | undefined {
  const parts = ipv4.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^[0-9]{1,3}$/.test(part) && Number(part) <= 255)) return undefined;
  return parts.reduce((sum, part) => sum * 256 + Number(part), 0);
}
