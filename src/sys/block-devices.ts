/**
 * Names of block devices, as the kernel gives them.
 */
import { readFileSync } from 'node:fs';

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
