/**
 * What the daemon's main thread may for a moment not do. Synchronous, so that nothing else runs meanwhile.
 */
import { checked, libc } from '../call/ffi.ts';

const c_capget = libc.func('int capget(void *header, void *data)');
const c_capset = libc.func('int capset(void *header, const void *data)');

/** include/uapi/linux/capability.h. */
const _LINUX_CAPABILITY_VERSION_3 = 0x20080522;
const CAP_SYS_RESOURCE = 24;

/**
 * Calls `make` without CAP_SYS_RESOURCE. An overlay writes with what its maker might do, and with that ext4 knows no limit of a quota.
 * Source: fs/overlayfs/super.c, creator_cred; fs/quota/dquot.c, ignore_hardlimit().
 */
export function boundByQuotas<T>(make: () => T): T {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(_LINUX_CAPABILITY_VERSION_3, 0);
  const before = Buffer.alloc(24);
  checked(c_capget(header, before), () => 'reading capabilities');
  const without = Buffer.from(before);
  // The first word of three: effective, permitted, inheritable.
  without.writeUInt32LE((before.readUInt32LE(0) & ~(1 << CAP_SYS_RESOURCE)) >>> 0, 0);
  checked(c_capset(header, without), () => 'dropping CAP_SYS_RESOURCE for a moment');
  try {
    return make();
  } finally {
    checked(c_capset(header, before), () => 'taking CAP_SYS_RESOURCE back');
  }
}
