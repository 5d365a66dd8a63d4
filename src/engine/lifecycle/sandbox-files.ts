/**
 * The text of the files that berth makes for a sandbox. Pure.
 */
import type { DnsConfig } from '../state/spec.ts';

/**
 * resolv.conf(5) of a sandbox.
 *
 * @param dns undefined: the host's file as it is. Present but empty gives an empty file: only absence copies.
 */
export function resolvConf(dns: DnsConfig | undefined, hostFile: string): string {
  if (dns === undefined) return hostFile;
  return [
    ...(dns.searches.length > 0 ? [`search ${dns.searches.join(' ')}`] : []),
    ...dns.servers.map((server) => `nameserver ${server}`),
    ...(dns.options.length > 0 ? [`options ${dns.options.join(' ')}`] : []),
  ]
    .map((line) => `${line}\n`)
    .join('');
}

/**
 * What is written in a sandbox's new namespaces: the defaults, then what was asked for, whichever way it is spelt.
 *
 * @param defaults of a sandbox with a network of its own.
 */
export function sandboxSysctls(
  requested: Readonly<Record<string, string>>,
  defaults: Readonly<Record<string, string>>,
  hasOwnNetwork: boolean,
): Record<string, string> {
  const asked = new Set(Object.keys(requested).map((name) => name.replaceAll('/', '.')));
  const kept = Object.entries(hasOwnNetwork ? defaults : {}).filter(([name]) => !asked.has(name.replaceAll('/', '.')));
  return { ...Object.fromEntries(kept), ...requested };
}
