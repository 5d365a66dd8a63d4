/**
 * Text of the files and sysctls of a sandbox. Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { Sysctl } from '../../sys/process/sysctls.ts';
import type { DnsConfig, IdMap } from '../state/spec.ts';
import { sysctlPath } from '../state/sysctl-path.ts';

/**
 * Returns the resolv.conf(5) of a sandbox.
 *
 * @param dns undefined: the host's file is copied. An empty configuration results in an empty file.
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
 * Returns the sysctls of a sandbox's new namespaces: the requested ones, and the defaults that the request does not set, in either notation.
 *
 * @param defaults for sandboxes with their own network namespace.
 * @throws {BerthError} INVALID_ARGUMENT for an invalid name, and for a sysctl that is set twice.
 */
export function sandboxSysctls(
  requested: Readonly<Record<string, string>>,
  defaults: Readonly<Record<string, string>>,
  hasOwnNetwork: boolean,
): Sysctl[] {
  const own = parseSysctls(requested);
  const paths = new Set(own.map(({ path }) => path));
  return [...(hasOwnNetwork ? parseSysctls(defaults) : []).filter(({ path }) => !paths.has(path)), ...own];
}

/** The directories of interfaces, which plugins create later; `all`, `default` and `lo` exist in every network namespace. */
const ofInterface = /^net\/(?:ipv4|ipv6|mpls)\/(?:conf|neigh)\/(?!(?:all|default|lo)\/)/;

/** Splits the sysctls of a sandbox into those of its new namespaces, and those of interfaces, which exist when the network is complete. */
export function splitSysctls(sysctls: readonly Sysctl[]): { readonly early: readonly Sysctl[]; readonly late: readonly Sysctl[] } {
  const { early = [], late = [] } = Object.groupBy(sysctls, ({ path }) => (ofInterface.test(path) ? 'late' : 'early'));
  return { early, late };
}

function parseSysctls(values: Readonly<Record<string, string>>): Sysctl[] {
  const byPath = new Map<string, Sysctl>();
  for (const [name, value] of Object.entries(values)) {
    const path = sysctlPath(name);
    if (path === undefined) throw invalidArgument(`sysctl ${JSON.stringify(name)}: invalid name`);
    if (byPath.has(path)) throw invalidArgument(`sysctl ${name} is set twice, also as ${byPath.get(path)?.name}`);
    byPath.set(path, { name, path, value });
  }
  return [...byPath.values()];
}

/**
 * Returns the default sysctls of a pod. In a user namespace, net.ipv4.ping_group_range ends at its last group: the kernel rejects groups without a
 * mapping (ipv4_ping_group_range in net/ipv4/sysctl_net_ipv4.c).
 *
 * @param ids of the pod's user namespace; undefined: the host's.
 */
export function defaultSysctls(defaults: Readonly<Record<string, string>>, ids: IdMap | undefined): Readonly<Record<string, string>> {
  if (ids === undefined) return defaults;
  const last = ids.gids.length - 1;
  const inNamespace = ([name, value]: [string, string]): [string, string] =>
    sysctlPath(name) === pingGroupRange ? [name, value.replace(/\d+$/, (high) => String(Math.min(Number(high), last)))] : [name, value];
  return Object.fromEntries(Object.entries(defaults).map(inNamespace));
}

const pingGroupRange = 'net/ipv4/ping_group_range';
