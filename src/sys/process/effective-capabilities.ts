/**
 * Drops a capability of the daemon's main thread temporarily. Synchronous, so that nothing else runs meanwhile.
 */
import { checked, libc } from '../call/ffi.ts';

const c_capget = libc.func('int capget(void *header, void *data)');
const c_capset = libc.func('int capset(void *header, const void *data)');

/** include/uapi/linux/capability.h. */
const _LINUX_CAPABILITY_VERSION_3 = 0x20080522;
const CAP_SYS_RESOURCE = 24;

/**
 * Calls `make` without CAP_SYS_RESOURCE. An overlay writes with the capabilities of the process that created it, and with this capability ext4 ignores
 * quota limits.
 * Source: fs/overlayfs/super.c, creator_cred; fs/quota/dquot.c, ignore_hardlimit().
 */
export function boundByQuotas<T>(make: () => T): T {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(_LINUX_CAPABILITY_VERSION_3, 0);
  const before = Buffer.alloc(24);
  checked(c_capget(header, before), () => 'read capabilities');
  const without = Buffer.from(before);
  // The first word of three: effective, permitted, inheritable.
  without.writeUInt32LE((before.readUInt32LE(0) & ~(1 << CAP_SYS_RESOURCE)) >>> 0, 0);
  checked(c_capset(header, without), () => 'drop CAP_SYS_RESOURCE');
  try {
    return make();
  } finally {
    checked(c_capset(header, before), () => 'restore CAP_SYS_RESOURCE');
  }
}
