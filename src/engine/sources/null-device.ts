/**
 * Opens the host's null device, after a check that it is the null device.
 */
import { fstatSync } from 'node:fs';
import { failedPrecondition } from '../../lib/errors.ts';
import { AT_FDCWD, close, O_PATH, type O_RDONLY, openat } from '../../sys/call/syscalls.ts';
import { cloneOpen, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MS_PRIVATE, setMountAttributes } from '../../sys/mount/mounts.ts';
import { nullDevice } from '../plan/devices.ts';

/**
 * Returns a detached mount of the node, to hide files behind it. It is read-only, so that no container can change the mode or the owner of the host's
 * node; devices on read-only mounts can be written.
 *
 * @throws {BerthError} FAILED_PRECONDITION if the host's /dev/null is another file.
 */
export function openMask(): number {
  const node = openNullDevice(O_PATH);
  try {
    const mount = cloneOpen(node);
    try {
      const set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
      setMountAttributes(mount, { set, propagation: MS_PRIVATE, isRecursive: false });
      return mount;
    } catch (error) {
      close(mount);
      throw error;
    }
  } finally {
    close(node);
  }
}

/** Opens the host's null device. @throws {BerthError} FAILED_PRECONDITION if it is another file. */
export function openNullDevice(flags: typeof O_PATH | typeof O_RDONLY): number {
  const fd = openat(AT_FDCWD, '/dev/null', flags);
  const stat = fstatSync(fd, { bigint: true });
  if (stat.isCharacterDevice() && stat.rdev === nullDevice) return fd;
  close(fd);
  throw failedPrecondition("the host's /dev/null is not the null device");
}
