/**
 * Which of a container's mounts come from outside: their contents are not the container's, and no checkpoint can hold them. Pure.
 */
import type { MountInfo } from '../../sys/call/proc.ts';

/** New for each container, or the kernel's own to show: made again, not copied. */
const kernelTypes = ['proc', 'sysfs', 'mqueue', 'devpts', 'cgroup2'];

/**
 * A file system that the daemon sees was there before the container; an overlay besides the root is an image volume, which nobody else sees.
 *
 * @param inside as the container's process has them. @param outside as the daemon has them.
 * @returns mount points, in the container's order; each once.
 */
export function externalMounts(inside: readonly MountInfo[], outside: readonly MountInfo[]): string[] {
  const ofHost = new Set(outside.map((mount) => mount.device));
  const points = inside
    .filter(({ mountPoint, type }) => mountPoint !== '/' && !kernelTypes.includes(type))
    .filter(({ device, type }) => ofHost.has(device) || type === 'overlay')
    .map((mount) => mount.mountPoint);
  return [...new Set(points)];
}
