/**
 * Checks the sysctls of a sandbox: only those of its own namespaces are allowed. Pure.
 */
import type { NamespaceModes } from '../../engine/state/spec.ts';
import { sysctlPath } from '../../engine/state/sysctl-path.ts';
import { invalidArgument } from '../../lib/errors.ts';
import { boundedMap, boundedText, quoted, singleLine } from './checks.ts';

/** The sysctls of an ipc namespace: ipc_namespaces(7). */
const ipcPaths = /^(kernel\/shm[^/]*|kernel\/msg[^/]*|kernel\/sem|fs\/mqueue\/[^/]+)$/;

/**
 * Checks sysctls and returns them unchanged.
 *
 * @param sysctls with names separated by dots or slashes: sysctl.d(5).
 * @throws {BerthError} INVALID_ARGUMENT for an invalid sysctl, or one that would change the node.
 */
export function sandboxSysctls(sysctls: Readonly<Record<string, string>>, namespaces: NamespaceModes): Readonly<Record<string, string>> {
  for (const [name, value] of Object.entries(boundedMap('linux.sysctls', sysctls))) {
    boundedText('linux.sysctls', name);
    checkSysctl(name, namespaces);
    singleLine(`linux.sysctls: ${name}`, value);
  }
  return sysctls;
}

/** The same sysctls as in runc 1.5.3 (libcontainer/configs/validate). */
function checkSysctl(name: string, { network, ipc, user }: NamespaceModes): void {
  const path = sysctlPath(name);
  if (path === undefined) throw invalidArgument(`linux.sysctls: invalid name ${quoted(name)}`);
  if (path === 'kernel/hostname') throw invalidArgument(`linux.sysctls: ${name}: set the hostname of the sandbox instead`);
  if (path.startsWith('net/')) refuseShared(name, 'network', network);
  else if (ipcPaths.test(path)) refuseShared(name, 'ipc', ipc);
  // The uts namespace of a pod with the host's network is the host's, too.
  else if (path === 'kernel/domainname') refuseShared(name, 'uts', network);
  else if (path.startsWith('user/')) refuseShared(name, 'user', user === undefined ? 'node' : 'pod');
  else throw invalidArgument(`linux.sysctls: ${name} is not namespaced and would change the node`);
}

function refuseShared(name: string, namespace: string, mode: 'pod' | 'node'): void {
  if (mode === 'node') throw invalidArgument(`linux.sysctls: ${name} would change the node: the sandbox uses the host's ${namespace} namespace`);
}
