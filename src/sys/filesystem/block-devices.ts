/**
 * Device nodes and their numbers, and the names of block devices as the kernel gives them.
 */
import { existsSync, globSync, readFileSync, statSync } from 'node:fs';

/** `/dev/sda`; `8:0` for one that is gone, or has no name: an overlay's, a btrfs volume's. */
export function blockDeviceName(major: number, minor: number): string {
  try {
    const name = /^DEVNAME=(.+)$/m.exec(readFileSync(`/sys/dev/block/${major}:${minor}/uevent`, 'utf8'))?.[1];
    if (name !== undefined) return `/dev/${name}`;
  } catch {
    // Not there: the number is all there is.
  }
  return `${major}:${minor}`;
}

/** Numbers (`8:0`) of the disks whose device nodes, or links to them, match a pattern of glob(7). Partitions are none: the kernel limits whole disks. */
export function disksLike(pattern: string): string[] {
  const numbers = globSync(pattern).flatMap((path) => {
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (!stats?.isBlockDevice()) return [];
    const { major, minor } = deviceNumbers(stats.rdev);
    return [`${major}:${minor}`];
  });
  return [...new Set(numbers)].filter((number) => !existsSync(`/sys/dev/block/${number}/partition`));
}

/** As the kernel gives them to user space: include/linux/kdev_t.h, new_decode_dev(), widened as glibc's gnu_dev_major(3). */
export function deviceNumbers(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n)),
    minor: Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n)),
  };
}
