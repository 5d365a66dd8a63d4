/**
 * Gives the daemon its own way into each cgroup hierarchy, on which nothing can be mounted.
 *
 * A container that may mount can cover its `cgroup.procs` or `cgroup.kill`, and a mount that reaches the host (through shared propagation, or a pod with
 * host namespaces) would then make the daemon read and write another file: a process would start outside its cgroup, or not be killed. A detached mount
 * is in no mount namespace, and without a peer group it receives no mount of others. The hierarchies contain no symbolic links.
 */
import { statfsSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { close } from '../call/syscalls.ts';
import { cloneTree, MS_PRIVATE, setMountAttributes } from '../mount/mounts.ts';
import { type CgroupFacts, mountPointsOf } from './cgroup-facts.ts';

/** CGROUP_SUPER_MAGIC and CGROUP2_SUPER_MAGIC: include/uapi/linux/magic.h. */
const fileSystemTypes: readonly number[] = [0x27e0eb, 0x63677270];

/**
 * Opens each hierarchy for the life of the process.
 *
 * @returns the facts, with which all functions of this directory use these ways.
 * @throws {BerthError} FAILED_PRECONDITION if something else is mounted on a mount point; SyscallError if the mount cannot be cloned.
 */
export function holdHierarchies<Facts extends CgroupFacts>(facts: Facts): Facts {
  return { ...facts, ways: new Map(mountPointsOf(facts).map((mountPoint) => [mountPoint, hold(mountPoint)])) };
}

function hold(mountPoint: string): string {
  const mount = cloneTree(mountPoint, { isRecursive: false });
  // Not /proc/self: criu opens a path of the freezer.
  const way = `/proc/${process.pid}/fd/${mount}`;
  setMountAttributes(mount, { propagation: MS_PRIVATE, isRecursive: false });
  if (fileSystemTypes.includes(statfsSync(way).type)) return way;
  close(mount);
  throw failedPrecondition(`${mountPoint} is covered by a mount that is not a cgroup file system; unmount it`);
}
