/**
 * What a plugin is told: environment, CNI_ARGS, capability arguments, and its configuration on standard input.
 *
 * Pure: runs nothing.
 */
import type { NetworkAttachment } from '../engine/state/spec.ts';
import { invalidArgument, reasonOf } from '../lib/errors.ts';
import { parseQuantity } from '../lib/quantity.ts';
import type { JsonObject, NetworkList, PluginConfig } from './list.ts';

/** One sandbox's part in one network: all parameters that ADD, CHECK and DEL must have in common. */
export type Attachment = {
  readonly containerId: string;
  readonly ifName: string;
  /** Host path of the network namespace; '' once it is gone. */
  readonly netns: string;
  readonly cniArgs: readonly (readonly [string, string])[];
  /** By capability name; only what the list declares. */
  readonly capabilityArgs: JsonObject;
};

export type Command = 'ADD' | 'DEL' | 'CHECK' | 'VERSION' | 'STATUS' | 'GC';

/**
 * The attachment of a sandbox to a list, under the interface name that Kubernetes expects.
 *
 * @throws {BerthError} INVALID_ARGUMENT for names that CNI_ARGS cannot carry and for bandwidth annotations that are no quantities.
 */
export function planAttachment(list: NetworkList, request: NetworkAttachment): Attachment {
  // A hyphen would make the cache's file names ambiguous; the first character is the specification's rule.
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.]*$/.test(request.sandboxId)) throw invalidArgument(`sandbox id "${request.sandboxId}" cannot be a CNI container id`);
  return {
    containerId: request.sandboxId,
    ifName: 'eth0',
    netns: request.netnsPath,
    cniArgs: planCniArgs(request),
    capabilityArgs: planCapabilityArgs(list, request),
  };
}

/** The arguments that Calico, Cilium and Multus rely on, in the order every Kubernetes runtime has them. */
function planCniArgs({ sandboxId, metadata }: NetworkAttachment): readonly (readonly [string, string])[] {
  const args: readonly (readonly [string, string])[] = [
    ['IgnoreUnknown', '1'],
    ['K8S_POD_NAMESPACE', metadata.namespace],
    ['K8S_POD_NAME', metadata.name],
    ['K8S_POD_INFRA_CONTAINER_ID', sandboxId],
    ['K8S_POD_UID', metadata.uid],
  ];
  for (const [key, value] of args) {
    // There is no escaping: a ";" would add an argument of the pod's choice, such as IP.
    if (/[;=\0]/.test(value)) throw invalidArgument(`${key} "${value}" contains ";" or "=", which CNI_ARGS cannot carry`);
  }
  return args;
}

/** `ipRanges`, `mac`, `ips` and the like exist, but no field of a sandbox carries them. */
function planCapabilityArgs(list: NetworkList, request: NetworkAttachment): JsonObject {
  const declared = new Set(list.plugins.flatMap((plugin) => plugin.capabilities));
  const candidates: readonly (readonly [string, () => unknown])[] = [
    ['portMappings', () => planPortMappings(request)],
    ['bandwidth', () => planBandwidth(request.annotations)],
    ['dns', () => request.dns && { servers: request.dns.servers, searches: request.dns.searches, options: request.dns.options }],
    ['cgroupPath', () => request.cgroupParent || undefined],
    ['io.kubernetes.cri.pod-annotations', () => request.annotations],
  ];
  // Made only when declared: an odd annotation does not hurt a network that ignores it.
  const made = candidates.filter(([name]) => declared.has(name)).map(([name, make]) => [name, make()] as const);
  return Object.fromEntries(made.filter(([, value]) => value !== undefined));
}

function planPortMappings({ portMappings }: NetworkAttachment): unknown {
  const exposed = portMappings.filter((mapping) => mapping.hostPort > 0);
  if (exposed.length === 0) return undefined;
  return exposed.map(({ hostPort, containerPort, protocol, hostIp }) => ({
    hostPort,
    containerPort,
    protocol: protocol.toLowerCase(),
    ...(hostIp === '' ? {} : { hostIP: hostIp }),
  }));
}

/** Bits a second. Source: Kubernetes pkg/util/bandwidth, the limits of the pod annotations. */
const rateMin = 1_000n;
const rateMax = 1_000_000_000_000_000n;
/** Bits. The largest burst that the bandwidth plugin takes for certain: it wants more than none, and counts in 32 bits. */
const burst = 2 ** 32 - 1;

function planBandwidth(annotations: Readonly<Record<string, string>>): unknown {
  const ingressRate = rateOf(annotations, 'kubernetes.io/ingress-bandwidth');
  const egressRate = rateOf(annotations, 'kubernetes.io/egress-bandwidth');
  if (ingressRate === undefined && egressRate === undefined) return undefined;
  return {
    ...(ingressRate === undefined ? {} : { ingressRate, ingressBurst: burst }),
    ...(egressRate === undefined ? {} : { egressRate, egressBurst: burst }),
  };
}

function rateOf(annotations: Readonly<Record<string, string>>, key: string): number | undefined {
  const text = annotations[key];
  if (text === undefined) return undefined;
  let rate: bigint;
  try {
    rate = parseQuantity(text);
  } catch (error) {
    throw invalidArgument(`annotation ${key}: ${reasonOf(error)}`, error);
  }
  if (rate < rateMin || rate > rateMax) throw invalidArgument(`annotation ${key}: ${text} is not between 1k and 1P bits a second`);
  return Number(rate);
}

/**
 * The configuration one plugin gets: its own object, with what the specification inserts and without what it reserves.
 *
 * @param prevResult result of the plugin before (ADD) or of the whole ADD (CHECK, DEL); undefined for none.
 * @param extras keys of GC.
 * Source: CNI specification 1.1.0, section 3, "Deriving request configuration from plugin configuration".
 */
export function planConfig(
  list: NetworkList,
  plugin: PluginConfig,
  request: { readonly prevResult?: unknown; readonly attachment?: Attachment; readonly extras?: JsonObject },
): string {
  const kept = Object.entries(plugin.raw).filter(([key]) => !isReserved(key));
  const args = Object.entries(request.attachment?.capabilityArgs ?? {}).filter(([name]) => plugin.capabilities.includes(name));
  return JSON.stringify({
    ...Object.fromEntries(kept),
    cniVersion: list.version,
    name: list.name,
    ...(args.length === 0 ? {} : { runtimeConfig: Object.fromEntries(args) }),
    ...(request.prevResult === undefined ? {} : { prevResult: request.prevResult }),
    ...request.extras,
  });
}

function isReserved(key: string): boolean {
  return ['capabilities', 'runtimeConfig', 'prevResult', 'cniVersions'].includes(key) || key.startsWith('cni.dev/');
}

/**
 * The environment of one plugin, as `NAME=value`.
 *
 * @param base what every plugin needs besides, e.g. PATH: several run iptables.
 */
export function planEnvironment(
  base: readonly string[],
  command: Command,
  binDirs: readonly string[],
  attachment: Attachment | undefined,
): readonly string[] {
  return [
    ...base.filter((variable) => !variable.startsWith('CNI_')),
    `CNI_COMMAND=${command}`,
    `CNI_PATH=${binDirs.join(':')}`,
    `CNI_CONTAINERID=${attachment?.containerId ?? ''}`,
    `CNI_NETNS=${attachment?.netns ?? ''}`,
    `CNI_IFNAME=${attachment?.ifName ?? ''}`,
    `CNI_ARGS=${(attachment?.cniArgs ?? []).map(([key, value]) => `${key}=${value}`).join(';')}`,
  ];
}
