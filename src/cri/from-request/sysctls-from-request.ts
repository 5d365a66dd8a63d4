/**
 * Checks the sysctls of a sandbox: only those of its own namespaces are allowed. Pure.
 */
import type { NamespaceModes } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import { quoted, singleLine } from './checks.ts';

/** The sysctls of an ipc namespace: ipc_namespaces(7). */
const ipcNames = /^(kernel\/shm[^/]*|kernel\/msg[^/]*|kernel\/sem|fs\/mqueue\/[^/]+)$/;

/**
 * Checks sysctls and returns them unchanged.
 *
 * @param sysctls with names separated by dots or slashes: sysctl(8).
 * @throws {BerthError} INVALID_ARGUMENT for an invalid sysctl, or one that would change the node.
 */
export function sandboxSysctls(sysctls: Readonly<Record<string, string>>, namespaces: NamespaceModes): Readonly<Record<string, string>> {
  for (const [name, value] of Object.entries(sysctls)) {
    checkSysctl(name, namespaces);
    singleLine(`linux.sysctls: ${name}`, value);
  }
  return sysctls;
}

function checkSysctl(name: string, { network, ipc }: NamespaceModes): void {
  const path = name.includes('/') ? name : name.replaceAll('.', '/');
  if (!/^[a-z0-9]/.test(path) || path.split('/').some((part) => !/^[A-Za-z0-9_.@:-]+$/.test(part) || /^\.\.?$/.test(part))) {
    throw invalidArgument(`linux.sysctls: invalid name ${quoted(name)}`);
  }
  if (path.startsWith('net/')) refuseShared(name, 'network', network);
  else if (ipcNames.test(path)) refuseShared(name, 'ipc', ipc);
  else throw invalidArgument(`linux.sysctls: ${name} is not namespaced and would change the node`);
}

function refuseShared(name: string, namespace: string, mode: 'pod' | 'node'): void {
  if (mode === 'node') throw invalidArgument(`linux.sysctls: ${name} would change the node: the sandbox uses the host's ${namespace} namespace`);
}
