/**
 * Converts a NamespaceOption to NamespaceModes, for sandboxes and containers. Pure.
 */
import type { IdMap, IdRange, NamespaceModes, PidMode } from '../../engine/state/spec.ts';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { present } from './checks.ts';

type Options = cri.NamespaceOption;

const pidModes: Readonly<Record<cri.NamespaceMode, PidMode>> = { POD: 'pod', CONTAINER: 'container', NODE: 'node', TARGET: 'target' };

/** @throws {BerthError} INVALID_ARGUMENT for a mode that a sandbox cannot use, and for invalid id mappings. */
export function sandboxNamespaces(options: Options = {}): NamespaceModes {
  const user = userNamespace(options.userns_options);
  if (options.cgroupns_options !== undefined) throw invalidArgument('namespace_options.cgroupns_options: valid only for containers');
  const pid = pidMode(options);
  if (pid === 'target') throw invalidArgument('namespace_options.pid: TARGET is valid only for containers');
  return present({ network: podOrNode('network', options.network), ipc: podOrNode('ipc', options.ipc), pid, user });
}

/**
 * The network and ipc namespaces are always those of the sandbox.
 *
 * @param options undefined: use the namespaces of the sandbox.
 * @throws {BerthError} INVALID_ARGUMENT for conflicts with the sandbox, FAILED_PRECONDITION if the sandbox has no pid namespace to share.
 */
export function containerNamespaces(options: Options | undefined, sandbox: NamespaceModes): NamespaceModes {
  const { network, ipc, user } = sandbox;
  if (options === undefined) return present({ network, ipc, pid: sandbox.pid, user });
  checkSameIds(userNamespace(options.userns_options), user);
  refuseNodeInPod('network', podOrNode('network', options.network), network);
  refuseNodeInPod('ipc', podOrNode('ipc', options.ipc), ipc);
  const pid = pidMode(options);
  if (pid !== 'target') return present({ network, ipc, pid: containerPid(pid, sandbox.pid), user });
  if (!options.target_id) throw invalidArgument('namespace_options.target_id: mode TARGET requires a container id');
  return present({ network, ipc, pid, targetId: options.target_id, user });
}

function containerPid(requested: PidMode, sandbox: PidMode): PidMode {
  if (requested !== 'pod') return requested;
  // A pod may use the host's pid namespace.
  if (sandbox === 'container') {
    throw failedPrecondition(
      'namespace_options.pid: the container requests POD, but the sandbox has mode CONTAINER: it has no pid namespace to share',
    );
  }
  return sandbox;
}

function pidMode({ pid = 'POD' }: Options): PidMode {
  const mode = pidModes[pid];
  if (mode === undefined) throw invalidArgument(`namespace_options.pid: unknown mode ${pid}`);
  return mode;
}

function podOrNode(field: 'network' | 'ipc', mode: cri.NamespaceMode = 'POD'): 'pod' | 'node' {
  if (mode !== 'POD' && mode !== 'NODE') throw invalidArgument(`namespace_options.${field}: must be POD or NODE, not ${mode}`);
  return mode === 'POD' ? 'pod' : 'node';
}

function refuseNodeInPod(field: string, requested: 'pod' | 'node', sandbox: 'pod' | 'node'): void {
  if (requested === 'node' && sandbox === 'pod')
    throw invalidArgument(`namespace_options.${field}: the container requests NODE, but the sandbox has its own ${field} namespace`);
}

/** @returns undefined for the host's user namespace. */
function userNamespace(userns: cri.UserNamespace | undefined): IdMap | undefined {
  if (userns === undefined) return undefined;
  const { mode = 'POD', uids = [], gids = [] } = userns;
  if (mode === 'NODE') {
    if (uids.length + gids.length > 0) throw invalidArgument('userns_options: mappings are not allowed with mode NODE');
    return undefined;
  }
  if (mode !== 'POD') throw invalidArgument(`userns_options.mode: must be POD or NODE, not ${mode}`);
  return { uids: idRange('userns_options.uids', uids), gids: idRange('userns_options.gids', gids) };
}

/** The number of ids: 2^32 - 1 is not a valid id. */
const idCount = 0xffffffff;

/** @throws {BerthError} INVALID_ARGUMENT unless there is exactly one mapping, which starts at id 0 of the container and above id 0 of the host. */
export function idRange(field: string, mappings: readonly cri.IDMapping[]): IdRange {
  const [mapping] = mappings;
  if (mapping === undefined || mappings.length > 1) throw invalidArgument(`${field}: must have exactly one mapping, not ${mappings.length}`);
  const { container_id = 0, host_id: hostId = 0, length = 0 } = mapping;
  if (container_id !== 0 || length === 0) throw invalidArgument(`${field}: the mapping must start at container_id 0, and its length must not be 0`);
  // Root of the host would be a user of the pod.
  if (hostId === 0) throw invalidArgument(`${field}: id 0 of the host must not be mapped`);
  if (hostId + length > idCount) throw invalidArgument(`${field}: ${length} ids from host_id ${hostId} exceed the largest id ${idCount - 1}`);
  return { hostId, length };
}

function checkSameIds(requested: IdMap | undefined, sandbox: IdMap | undefined): void {
  if (isSameIds(requested, sandbox)) return;
  throw invalidArgument(`userns_options: the container requests ${shown(requested)}, but the sandbox has ${shown(sandbox)}`);
}

/** Whether two maps are equal, or both absent. */
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
