/**
 * Finds the external mounts of a container: their contents do not belong to the container, and a checkpoint cannot contain them. Pure.
 */
import type { MountInfo } from '../../sys/call/proc.ts';

/** File systems of the kernel: a restore mounts them again. */
const kernelTypes = ['proc', 'sysfs', 'mqueue', 'devpts', 'cgroup2'];

/**
 * Returns the mount points of external mounts. A file system that is also mounted in the daemon's mount namespace existed before the container. An
 * overlay other than the root is an image volume, which is mounted in the container only.
 *
 * @param inside mounts of the container's process. @param outside mounts of the daemon.
 * @returns mount points without duplicates, in the order of `inside`.
 */
export function externalMounts(inside: readonly MountInfo[], outside: readonly MountInfo[]): string[] {
  const hostDevices = new Set(outside.map((mount) => mount.device));
  const points = inside
    .filter(({ mountPoint, type }) => mountPoint !== '/' && !kernelTypes.includes(type))
    .filter(({ device, type }) => hostDevices.has(device) || type === 'overlay')
    .map((mount) => mount.mountPoint);
  return [...new Set(points)];
}
