/**
 * Converts a LinuxContainerSecurityContext to a SecuritySpec. Pure.
 */
import type { SandboxSpec, SecuritySpec } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { cgroupAccess } from './cgroups-from-request.ts';
import { absolutePath, quoted, type RequestFacts } from './checks.ts';
import { containerNamespaces } from './namespaces-from-request.ts';
import { appArmorProfile, checkSelinux, seccompProfile } from './profiles-from-request.ts';
import { userSpec } from './user-from-request.ts';

/**
 * @throws {BerthError} INVALID_ARGUMENT for invalid fields or conflicts with the sandbox, UNIMPLEMENTED for unsupported features,
 *   FAILED_PRECONDITION if the sandbox has no pid namespace to share.
 */
export function securitySpecFrom(message: cri.LinuxContainerSecurityContext = {}, sandbox: SandboxSpec, facts: RequestFacts): SecuritySpec {
  const isPrivileged = message.privileged ?? false;
  if (isPrivileged && !sandbox.isPrivileged) {
    throw invalidArgument('security_context.privileged: a privileged container requires a privileged sandbox');
  }
  const profile = appArmorProfile(message, facts, isPrivileged);
  const isLabelIgnored = checkSelinux(message.selinux_options, facts, isPrivileged);
  const seccomp = seccompProfile(message);
  const cgroups = cgroupAccess(message, facts);
  const { add_capabilities: add = [], drop_capabilities: drop = [], add_ambient_capabilities: ambient = [] } = message.capabilities ?? {};
  return {
    isPrivileged,
    addCapabilities: add.map(capability),
    dropCapabilities: drop.map(capability),
    addAmbientCapabilities: ambient.map(capability),
    hasReadonlyRootfs: message.readonly_rootfs ?? false,
    noNewPrivs: message.no_new_privs ?? false,
    maskedPaths: paths('masked_paths', message.masked_paths, isPrivileged),
    readonlyPaths: paths('readonly_paths', message.readonly_paths, isPrivileged),
    seccomp: isPrivileged ? { kind: 'unconfined' } : seccomp,
    ...(profile === undefined ? {} : { appArmorProfile: profile }),
    ...(isLabelIgnored ? { isSelinuxLabelIgnored: true } : {}),
    user: userSpec(message),
    namespaces: containerNamespaces(message.namespace_options, sandbox.namespaces),
    ...(cgroups === undefined ? {} : { cgroups }),
  };
}

/** Converts `cap_net_admin` to `NET_ADMIN`. The engine checks the name. */
function capability(name: string): string {
  const short = name.toUpperCase().replace(/^CAP_/, '');
  if (!/^[A-Z0-9_]+$/.test(short)) throw invalidArgument(`capabilities: invalid capability ${quoted(name)}`);
  return short;
}

/** Masked and read-only paths: the kubelet decides which ones, and berth adds none. A privileged container has none. */
function paths(field: string, given: readonly string[] = [], isPrivileged: boolean): readonly string[] {
  const checked = given.map((path) => absolutePath(field, path));
  return isPrivileged ? [] : checked;
}
