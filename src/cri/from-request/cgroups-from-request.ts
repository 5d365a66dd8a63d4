/**
 * Converts what a container may see and change of its cgroups: the cgroup namespace and the mode of /sys/fs/cgroup. Pure.
 */
import type { CgroupAccess } from '../../engine/state/spec.ts';
import { failedPrecondition, invalidArgument } from '../../lib/errors.ts';
import type * as cri from '../wire/messages.ts';
import { present, type RequestFacts } from './checks.ts';

/**
 * @returns undefined if the request names neither.
 * @throws {BerthError} INVALID_ARGUMENT for pairs that the CRI forbids, FAILED_PRECONDITION for a mode that this node cannot provide.
 */
export function cgroupAccess(message: cri.LinuxContainerSecurityContext, facts: RequestFacts): CgroupAccess | undefined {
  const isPrivileged = message.privileged ?? false;
  const namespace = cgroupNamespace(message.namespace_options?.cgroupns_options, facts);
  const isWritable = mountMode(message.cgroup_mount_mode ?? 'CGROUP_MOUNT_MODE_UNSPECIFIED');
  if (isWritable === false && isPrivileged) throw invalidArgument(`${mountField}: a privileged container cannot have READ_ONLY`);
  if (isWritable && namespace === 'node' && !isPrivileged)
    throw invalidArgument(
      `${mountField}: READ_WRITE with the cgroup namespace NODE would change the cgroups of the node; it requires a privileged container`,
    );
  if (isWritable && !facts.hasDelegatedCgroups)
    throw failedPrecondition(`${mountField}: READ_WRITE requires cgroup v2, mounted with nsdelegate, on this node`);
  return namespace === undefined && isWritable === undefined ? undefined : present({ namespace, isWritable });
}

const mountField = 'security_context.cgroup_mount_mode';
const namespaceField = 'namespace_options.cgroupns_options.mode';

/** @returns undefined: berth's default. */
function mountMode(mode: cri.CgroupMountMode): boolean | undefined {
  if (mode === 'CGROUP_MOUNT_MODE_UNSPECIFIED') return undefined;
  if (mode === 'CGROUP_MOUNT_MODE_READ_ONLY') return false;
  if (mode === 'CGROUP_MOUNT_MODE_READ_WRITE') return true;
  throw invalidArgument(`${mountField}: unknown mode ${mode}`);
}

/** The first value of the enum is POD, so that a message without a mode is refused. */
function cgroupNamespace(options: cri.CgroupNamespace | undefined, facts: RequestFacts): CgroupAccess['namespace'] {
  if (options === undefined) return undefined;
  const { mode = 'POD' } = options;
  if (mode !== 'CONTAINER' && mode !== 'NODE') throw invalidArgument(`${namespaceField}: must be CONTAINER or NODE, not ${mode}`);
  if (mode === 'NODE') return 'node';
  if (!facts.hasCgroupNamespaces) throw failedPrecondition(`${namespaceField}: CONTAINER requires cgroup v2 on this node`);
  return 'container';
}
