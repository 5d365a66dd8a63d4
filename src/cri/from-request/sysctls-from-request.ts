/**
 * Which kernel parameters a sandbox may set: those that belong to its own namespaces. Pure.
 */
import type { NamespaceModes } from '../../engine/state/spec.ts';
import { invalidArgument } from '../../lib/errors.ts';
import { quoted, singleLine } from './checks.ts';

/** Parameters of an ipc namespace: ipc_namespaces(7). */
const ipcNames = /^(kernel\/shm[^/]*|kernel\/msg[^/]*|kernel\/sem|fs\/mqueue\/[^/]+)$/;

/**
 * @param sysctls in the form with dots or with slashes: sysctl(8). They are kept as given.
 * @throws {BerthError} INVALID_ARGUMENT for a parameter that would change the node, or that is malformed.
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
    throw invalidArgument(`linux.sysctls: ${quoted(name)} is not the name of a kernel parameter`);
  }
  if (path.startsWith('net/')) refuseShared(name, 'network', network);
  else if (ipcNames.test(path)) refuseShared(name, 'ipc', ipc);
  else throw invalidArgument(`linux.sysctls: ${name} belongs to no namespace, so setting it would change the whole node`);
}

function refuseShared(name: string, namespace: string, mode: 'pod' | 'node'): void {
  if (mode === 'node') throw invalidArgument(`linux.sysctls: ${name} would change the node: the sandbox uses the host's ${namespace} namespace`);
}
