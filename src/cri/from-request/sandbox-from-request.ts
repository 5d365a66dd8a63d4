/**
 * Converts a RunPodSandboxRequest to a SandboxSpec, with all checks that do not need the kernel. Pure.
 */
import type { DnsConfig, PortMapping, SandboxMetadata, SandboxSpec } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import { runtimeHandlers } from '../wire/constants.ts';
import type * as cri from '../wire/messages.ts';
import { absolutePath, boundedList, boundedMap, present, quoted, type RequestFacts, requiredName, singleLine, wholeNumber } from './checks.ts';
import { sandboxNamespaces } from './namespaces-from-request.ts';
import { appArmorProfile, checkSelinux, seccompProfile } from './profiles-from-request.ts';
import { sandboxSysctls } from './sysctls-from-request.ts';
import { userSpec } from './user-from-request.ts';

/**
 * @throws {BerthError} INVALID_ARGUMENT for invalid or conflicting fields, UNIMPLEMENTED for unsupported features.
 */
export function sandboxSpecFrom({ config, runtime_handler = '' }: cri.RunPodSandboxRequest, facts: RequestFacts): SandboxSpec {
  if (config === undefined) throw invalidArgument('config: missing');
  const metadata = sandboxMetadata(config.metadata);
  const linux = config.linux ?? {};
  const security = linux.security_context ?? {};
  const namespaces = sandboxNamespaces(security.namespace_options);
  checkHandler(runtime_handler);
  checkSandboxSecurity(security, facts);
  return present({
    metadata,
    hostname: hostname(config.hostname ?? ''),
    logDirectory: config.log_directory ? absolutePath('log_directory', config.log_directory) : '',
    dns: config.dns_config && dnsConfig(config.dns_config),
    portMappings: boundedList('port_mappings', config.port_mappings).map(portMapping),
    labels: boundedMap('labels', config.labels),
    annotations: boundedMap('annotations', config.annotations),
    cgroupParent: cgroupParent(linux.cgroup_parent ?? ''),
    sysctls: sandboxSysctls(linux.sysctls ?? {}, namespaces),
    namespaces,
    isPrivileged: security.privileged ?? false,
    runtimeHandler: runtime_handler,
  });
}

/** @param handler '' for the default. @throws {BerthError} INVALID_ARGUMENT for an unknown handler. */
export function checkHandler(handler: string): void {
  if (!runtimeHandlers.includes(handler)) {
    throw invalidArgument(`runtime_handler: unknown handler ${quoted(handler)}, must be "berth" or empty`);
  }
}

function sandboxMetadata(metadata: cri.PodSandboxMetadata | undefined): SandboxMetadata {
  if (metadata === undefined) throw invalidArgument('config.metadata: missing');
  const part = (field: 'name' | 'namespace' | 'uid') => {
    const text = requiredName(`metadata.${field}`, metadata[field]);
    // Network plugins receive these in CNI_ARGS, where a semicolon is the separator.
    if (text.includes(';')) throw invalidArgument(`metadata.${field}: ${quoted(text)} contains a semicolon`);
    return text;
  };
  return { name: part('name'), namespace: part('namespace'), uid: part('uid'), attempt: metadata.attempt ?? 0 };
}

/** __NEW_UTS_LEN of include/uapi/linux/utsname.h. */
const hostnameBytesMax = 64;

/** '' is valid: the sandbox then has the node's host name. */
function hostname(name: string): string {
  if (Buffer.byteLength(name) > hostnameBytesMax) throw invalidArgument(`hostname: ${quoted(name)} is longer than ${hostnameBytesMax} bytes`);
  if (name !== '' && !/^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(name)) {
    throw invalidArgument(`hostname: ${quoted(name)} contains characters other than letters, digits, dots, hyphens and underscores`);
  }
  return name;
}

function dnsConfig({ servers = [], searches = [], options = [] }: cri.DNSConfig): DnsConfig {
  // A line break would inject lines into resolv.conf.
  const checked = (field: string, words: readonly string[]) =>
    boundedList(`dns_config.${field}`, words).map((word) => singleLine(`dns_config.${field}`, word));
  return { servers: checked('servers', servers), searches: checked('searches', searches), options: checked('options', options) };
}

const protocols: Readonly<Record<cri.Protocol, PortMapping['protocol']>> = { TCP: 'tcp', UDP: 'udp', SCTP: 'sctp' };

function portMapping(mapping: cri.PortMapping): PortMapping {
  const protocol = protocols[mapping.protocol ?? 'TCP'];
  if (protocol === undefined) throw invalidArgument(`port_mappings: unknown protocol ${mapping.protocol}`);
  return {
    protocol,
    containerPort: wholeNumber('port_mappings: container_port', mapping.container_port, 1, 65535),
    hostPort: wholeNumber('port_mappings: host_port', mapping.host_port, 0, 65535),
    hostIp: hostIp(mapping.host_ip ?? ''),
  };
}

function hostIp(address: string): string {
  const isV4 = /^\d{1,3}(\.\d{1,3}){3}$/.test(address) && address.split('.').every((part) => Number(part) <= 255);
  const isV6 = /^[0-9a-f:.]*:[0-9a-f:.]*$/i.test(address) && URL.canParse(`http://[${address}]/`);
  if (address !== '' && !isV4 && !isV6) throw invalidArgument(`port_mappings: host_ip: ${quoted(address)} is not an IP address`);
  return address;
}

/** Refuses a parent that is invalid for any cgroup driver; the engine checks that it exists. */
function cgroupParent(parent: string): string {
  if (singleLine('linux.cgroup_parent', parent).split('/').includes('..')) {
    throw invalidArgument(`linux.cgroup_parent: ${quoted(parent)} must not contain ".."`);
  }
  return parent;
}

/** Checks fields that have no effect, because the sandbox has no process of its own. */
function checkSandboxSecurity(security: cri.LinuxSandboxSecurityContext, facts: RequestFacts): void {
  userSpec(security);
  seccompProfile(security);
  appArmorProfile({ apparmor: security.apparmor }, facts, security.privileged ?? false);
  checkSelinux(security.selinux_options, facts, security.privileged ?? false);
}
