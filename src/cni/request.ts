/**
 * Builds the input of a plugin: its environment, CNI_ARGS, capability arguments, and its configuration on stdin.
 *
 * Pure: runs nothing.
 */

import type { NetworkAttachment } from '../engine/state/spec.ts';
import { invalidArgument, reasonOf } from '../lib/errors.ts';
import { foldKey, type JsonObject } from '../lib/go-json.ts';
import { parseQuantity } from '../lib/quantity.ts';
import type { NetworkList, PluginConfig } from './list.ts';

/** The attachment of a sandbox to a network: the parameters that ADD, CHECK and DEL must share. */
export type Attachment = {
  readonly containerId: string;
  readonly ifName: string;
  /** Host path of the network namespace; '' when it no longer exists. */
  readonly netns: string;
  readonly cniArgs: readonly (readonly [string, string])[];
  /** By capability name; only the capabilities that the list declares. */
  readonly capabilityArgs: JsonObject;
};

export type Command = 'ADD' | 'DEL' | 'CHECK' | 'VERSION' | 'STATUS' | 'GC';

/**
 * Returns the attachment of a sandbox to a list, with the interface name that Kubernetes expects.
 *
 * @throws {BerthError} INVALID_ARGUMENT for names that CNI_ARGS cannot carry and for invalid bandwidth annotations.
 */
export function planAttachment(list: NetworkList, request: NetworkAttachment): Attachment {
  // A hyphen would make the file names of the cache ambiguous; the rule for the first character is the specification's.
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.]*$/.test(request.sandboxId))
    throw invalidArgument(`sandbox id "${request.sandboxId}" is not a valid CNI container id`);
  return {
    containerId: request.sandboxId,
    ifName: 'eth0',
    netns: request.netnsPath,
    cniArgs: planCniArgs(request),
    capabilityArgs: planCapabilityArgs(list, request),
  };
}

/** The arguments that Calico, Cilium and Multus rely on, in the order that every Kubernetes runtime uses. */
function planCniArgs({ sandboxId, metadata }: NetworkAttachment): readonly (readonly [string, string])[] {
  const args: readonly (readonly [string, string])[] = [
    ['IgnoreUnknown', '1'],
    ['K8S_POD_NAMESPACE', metadata.namespace],
    ['K8S_POD_NAME', metadata.name],
    ['K8S_POD_INFRA_CONTAINER_ID', sandboxId],
    ['K8S_POD_UID', metadata.uid],
  ];
  for (const [key, value] of args) {
    // CNI_ARGS has no escaping: a ";" would let the pod add an argument, such as IP.
    if (/[;=\0]/.test(value)) throw invalidArgument(`${key} "${value}" contains a character that is not allowed in CNI_ARGS (";", "=" or NUL)`);
  }
  return args;
}

/** Other capabilities exist (`ipRanges`, `mac`, `ips`), but no field of a sandbox contains their values. */
function planCapabilityArgs(list: NetworkList, request: NetworkAttachment): JsonObject {
  const declared = new Set(list.plugins.flatMap((plugin) => plugin.capabilities));
  const candidates: readonly (readonly [string, () => unknown])[] = [
    ['portMappings', () => planPortMappings(request)],
    ['bandwidth', () => planBandwidth(request.annotations)],
    ['dns', () => request.dns && { servers: request.dns.servers, searches: request.dns.searches, options: request.dns.options }],
    ['cgroupPath', () => request.cgroupParent || undefined],
    ['io.kubernetes.cri.pod-annotations', () => request.annotations],
  ];
  // Evaluated only when declared: an invalid annotation does not fail a network that ignores it.
  const args = candidates.filter(([name]) => declared.has(name)).map(([name, evaluate]) => [name, evaluate()] as const);
  return Object.fromEntries(args.filter(([, value]) => value !== undefined));
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

/** In bits per second. Source: Kubernetes pkg/util/bandwidth, the limits of the pod annotations. */
const rateMin = 1_000n;
const rateMax = 1_000_000_000_000_000n;
/**
 * The plugin's queue holds a burst. It is a tenth of a second at the rate, at least one jumbo frame (tbf drops larger packets), and at most what the
 * plugin counts in 32 bits. containerd's constant 2^32 - 1 is an hour at 1 Mbit/s, and below 16 Mbit/s it overflows the kernel's 32-bit clock.
 * Source: the plugin's ifb_creator.go; net/sched/sch_tbf.c (facts).
 */
const burstSeconds = 0.1;
const burstBitsMin = 128 * 1024;
const burstBitsMax = 2 ** 32 - 1;

function burstOf(rate: number): number {
  return Math.min(Math.max(Math.ceil(rate * burstSeconds), burstBitsMin), burstBitsMax);
}

function planBandwidth(annotations: Readonly<Record<string, string>>): unknown {
  const ingressRate = rateOf(annotations, 'kubernetes.io/ingress-bandwidth');
  const egressRate = rateOf(annotations, 'kubernetes.io/egress-bandwidth');
  if (ingressRate === undefined && egressRate === undefined) return undefined;
  return {
    ...(ingressRate === undefined ? {} : { ingressRate, ingressBurst: burstOf(ingressRate) }),
    ...(egressRate === undefined ? {} : { egressRate, egressBurst: burstOf(egressRate) }),
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
  if (rate < rateMin || rate > rateMax) throw invalidArgument(`annotation ${key}: ${text} is not between 1k and 1P bits per second`);
  return Number(rate);
}

/**
 * Returns the configuration of one plugin as JSON: its own object, with the keys that the specification inserts and without those that it reserves.
 *
 * @param request.prevResult result of the previous plugin (ADD) or of the complete ADD (CHECK, DEL); undefined for none.
 * @param request.extras the keys of GC.
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

const reservedKeys: ReadonlySet<string> = new Set(['capabilities', 'runtimeConfig', 'prevResult', 'cniVersions'].map(foldKey));

function isReserved(key: string): boolean {
  return reservedKeys.has(foldKey(key)) || key.startsWith('cni.dev/');
}

/**
 * Returns the environment of one plugin, as `NAME=value`.
 *
 * @param base variables for every plugin, such as PATH: several plugins run iptables.
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
