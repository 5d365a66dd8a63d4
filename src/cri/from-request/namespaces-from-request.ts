/**
 * NamespaceOption -> NamespaceModes, of a sandbox and of a container in it. Pure.
 */
import type { IdMap, IdRange, NamespaceModes, PidMode } from '../../engine/state/spec.ts';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { present } from './checks.ts';

type Options = cri.NamespaceOption;

const pidModes: Readonly<Record<cri.NamespaceMode, PidMode>> = { POD: 'pod', CONTAINER: 'container', NODE: 'node', TARGET: 'target' };

/** @throws {BerthError} INVALID_ARGUMENT for a mode that a sandbox cannot have, and for ids that cannot be mapped. */
export function sandboxNamespaces(options: Options = {}): NamespaceModes {
  const user = userNamespace(options.userns_options);
  const pid = pidMode(options);
  if (pid === 'target') throw invalidArgument('namespace_options.pid: TARGET is for containers; a sandbox has no other to join');
  return present({ network: podOrNode('network', options.network), ipc: podOrNode('ipc', options.ipc), pid, user });
}

/**
 * Network and ipc are the sandbox's in any case: a container has none of its own.
 *
 * @param options undefined: the container says nothing, and is placed as its sandbox is.
 * @throws {BerthError} INVALID_ARGUMENT for what contradicts the sandbox, FAILED_PRECONDITION for a pid namespace that the sandbox was made without.
 */
export function containerNamespaces(options: Options | undefined, sandbox: NamespaceModes): NamespaceModes {
  const { network, ipc, user } = sandbox;
  if (options === undefined) return present({ network, ipc, pid: sandbox.pid, user });
  checkSameIds(userNamespace(options.userns_options), user);
  refuseNodeInPod('network', podOrNode('network', options.network), network);
  refuseNodeInPod('ipc', podOrNode('ipc', options.ipc), ipc);
  const pid = pidMode(options);
  if (pid !== 'target') return present({ network, ipc, pid: containerPid(pid, sandbox.pid), user });
  if (!options.target_id) throw invalidArgument('namespace_options.target_id: pid mode TARGET needs the id of a container');
  return present({ network, ipc, pid, targetId: options.target_id, user });
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

/** @returns undefined: the host's. */
function userNamespace(userns: cri.UserNamespace | undefined): IdMap | undefined {
  if (userns === undefined) return undefined;
  const { mode = 'POD', uids = [], gids = [] } = userns;
  if (mode === 'NODE') {
    if (uids.length + gids.length > 0) throw invalidArgument('userns_options: mode NODE takes no mappings');
    return undefined;
  }
  if (mode !== 'POD') throw invalidArgument(`userns_options.mode: it is POD or NODE, not ${mode}`);
  return { uids: idRange('userns_options.uids', uids), gids: idRange('userns_options.gids', gids) };
}

/** How many ids there are: 2^32 - 1 stands for none. */
const idCount = 0xffffffff;

/** @throws {BerthError} INVALID_ARGUMENT for other than one mapping, which must begin at id 0 of the container. */
export function idRange(field: string, mappings: readonly cri.IDMapping[]): IdRange {
  const [mapping] = mappings;
  if (mapping === undefined || mappings.length > 1) throw invalidArgument(`${field}: ${mappings.length} mappings; it must be one`);
  const { container_id = 0, host_id: hostId = 0, length = 0 } = mapping;
  if (container_id !== 0 || length === 0) throw invalidArgument(`${field}: id 0 of the container is not mapped`);
  if (hostId + length > idCount) throw invalidArgument(`${field}: ${length} ids from ${hostId} on end beyond the greatest id`);
  return { hostId, length };
}

function checkSameIds(asked: IdMap | undefined, sandbox: IdMap | undefined): void {
  if (isSameIds(asked, sandbox)) return;
  throw invalidArgument(`userns_options: ${shown(asked)}, but the sandbox has ${shown(sandbox)}`);
}

/** Whether two maps give the same ids, or neither is there. */
export function isSameIds(one: IdMap | undefined, other: IdMap | undefined): boolean {
  const isSame = (a: IdRange, b: IdRange) => a.hostId === b.hostId && a.length === b.length;
  if (one === undefined || other === undefined) return one === other;
  return isSame(one.uids, other.uids) && isSame(one.gids, other.gids);
}

function shown(ids: IdMap | undefined): string {
  if (ids === undefined) return "the host's user namespace";
  const range = ({ hostId, length }: IdRange) => `${length} from ${hostId}`;
  return `uids ${range(ids.uids)}, gids ${range(ids.gids)}`;
}
