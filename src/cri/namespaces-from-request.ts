/**
 * NamespaceOption -> NamespaceModes, of a sandbox and of a container in it. Pure.
 */
import type { NamespaceModes, PidMode } from '../engine/spec.ts';
import { failedPrecondition, invalidArgument, unimplemented } from '../lib/errors.ts';
import type * as cri from './messages.ts';

type Options = cri.NamespaceOption;

const pidModes: Readonly<Record<cri.NamespaceMode, PidMode>> = { POD: 'pod', CONTAINER: 'container', NODE: 'node', TARGET: 'target' };

/** @throws {BerthError} INVALID_ARGUMENT for a mode that a sandbox cannot have, UNIMPLEMENTED for a user namespace. */
export function sandboxNamespaces(options: Options = {}): NamespaceModes {
  checkUserNamespace(options.userns_options);
  const pid = pidMode(options);
  if (pid === 'target') throw invalidArgument('namespace_options.pid: TARGET is for containers; a sandbox has no other to join');
  return { network: podOrNode('network', options.network), ipc: podOrNode('ipc', options.ipc), pid };
}

/**
 * Network and ipc are the sandbox's in any case: a container has none of its own.
 *
 * @param options undefined: the container says nothing, and is placed as its sandbox is.
 * @throws {BerthError} INVALID_ARGUMENT for what contradicts the sandbox, FAILED_PRECONDITION for a pid namespace that the sandbox was made without.
 */
export function containerNamespaces(options: Options | undefined, sandbox: NamespaceModes): NamespaceModes {
  const { network, ipc } = sandbox;
  if (options === undefined) return { network, ipc, pid: sandbox.pid };
  checkUserNamespace(options.userns_options);
  refuseNodeInPod('network', podOrNode('network', options.network), network);
  refuseNodeInPod('ipc', podOrNode('ipc', options.ipc), ipc);
  const pid = pidMode(options);
  if (pid !== 'target') return { network, ipc, pid: containerPid(pid, sandbox.pid) };
  if (!options.target_id) throw invalidArgument('namespace_options.target_id: pid mode TARGET needs the id of a container');
  return { network, ipc, pid, targetId: options.target_id };
}

function containerPid(asked: PidMode, sandbox: PidMode): PidMode {
  if (asked !== 'pod') return asked;
  // The pod's pid namespace is the host's where the pod has none of its own.
  if (sandbox === 'container') {
    throw failedPrecondition('namespace_options.pid: POD, but the sandbox was made with CONTAINER and has no pid namespace to share');
  }
  return sandbox;
}

function pidMode({ pid = 'POD' }: Options): PidMode {
  const mode = pidModes[pid];
  if (mode === undefined) throw invalidArgument(`namespace_options.pid: there is no mode ${pid}`);
  return mode;
}

function podOrNode(field: 'network' | 'ipc', mode: cri.NamespaceMode = 'POD'): 'pod' | 'node' {
  if (mode !== 'POD' && mode !== 'NODE') throw invalidArgument(`namespace_options.${field}: it is POD or NODE, not ${mode}`);
  return mode === 'POD' ? 'pod' : 'node';
}

function refuseNodeInPod(field: string, asked: 'pod' | 'node', sandbox: 'pod' | 'node'): void {
  if (asked === 'node' && sandbox === 'pod') throw invalidArgument(`namespace_options.${field}: NODE, but the sandbox has a namespace of its own`);
}

/** The contract's rules come first, so that a request that no runtime may accept says so. */
function checkUserNamespace(userns: cri.UserNamespace | undefined): void {
  if (userns === undefined) return;
  const { mode = 'POD', uids = [], gids = [] } = userns;
  if (mode === 'NODE') {
    if (uids.length + gids.length > 0) throw invalidArgument('userns_options: mode NODE takes no mappings');
    return;
  }
  if (mode !== 'POD') throw invalidArgument(`userns_options.mode: it is POD or NODE, not ${mode}`);
  checkMapping('uids', uids);
  checkMapping('gids', gids);
  throw unimplemented('userns_options: berth does not run pods in user namespaces yet; set hostUsers: true');
}

function checkMapping(field: string, mappings: readonly cri.IDMapping[]): void {
  const [mapping] = mappings;
  if (mapping === undefined || mappings.length > 1) throw invalidArgument(`userns_options.${field}: ${mappings.length} mappings; it must be one`);
  const { container_id = 0, length = 0 } = mapping;
  if (container_id !== 0 || length === 0) throw invalidArgument(`userns_options.${field}: id 0 of the container is not mapped`);
}
