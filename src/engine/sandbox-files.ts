/**
 * The text of the files that berth makes for a sandbox. Pure.
 */
import type { DnsConfig } from './spec.ts';

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

/** Sysctls that users of container runtimes rely on: servers of ordinary users on port 80, and ping without a capability. */
const defaultNetSysctls: Readonly<Record<string, string>> = {
  'net.ipv4.ip_unprivileged_port_start': '0',
  'net.ipv4.ping_group_range': '0 2147483647',
};

/** What is written in a sandbox's new namespaces: the defaults, then what was asked for, whichever way it is spelt. */
export function sandboxSysctls(requested: Readonly<Record<string, string>>, hasOwnNetwork: boolean): Record<string, string> {
  const asked = new Set(Object.keys(requested).map((name) => name.replaceAll('/', '.')));
  const defaults = Object.entries(hasOwnNetwork ? defaultNetSysctls : {}).filter(([name]) => !asked.has(name));
  return { ...Object.fromEntries(defaults), ...requested };
}
