/**
 * Names and numbers of block devices.
 */
import { existsSync, globSync, readFileSync, statSync } from 'node:fs';

/** Returns `/dev/sda`, or `8:0` if the device is gone or has no name, such as that of an overlay or a btrfs volume. */
export function blockDeviceName(major: number, minor: number): string {
  try {
    const name = /^DEVNAME=(.+)$/m.exec(readFileSync(`/sys/dev/block/${major}:${minor}/uevent`, 'utf8'))?.[1];
    if (name !== undefined) return `/dev/${name}`;
  } catch {
    // The device does not exist: return its number.
  }
  return `${major}:${minor}`;
}

/** Returns the numbers (`8:0`) of disks whose device nodes, or links to them, match a glob(7) pattern. Without partitions: the kernel limits whole disks. */
export function disksLike(pattern: string): string[] {
  const numbers = globSync(pattern).flatMap((path) => {
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (!stats?.isBlockDevice()) return [];
    const { major, minor } = deviceNumbers(stats.rdev);
    return [`${major}:${minor}`];
  });
  return [...new Set(numbers)].filter((number) => !existsSync(`/sys/dev/block/${number}/partition`));
}

/** Decodes a dev_t of user space: include/linux/kdev_t.h, new_decode_dev(), with the 64-bit extension of glibc's gnu_dev_major(3). */
export function deviceNumbers(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n)),
    minor: Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n)),
  };
}
