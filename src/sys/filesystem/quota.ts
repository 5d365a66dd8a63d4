/**
 * Project quotas of ext4 and xfs: usage and limits of the files of a project.
 *
 * Uses quotactl_fd(2), which needs no block device, and the ioctls of fs.h. Decides no limit.
 */
import { closeSync, openSync } from 'node:fs';
import { checked, isErrno, libc } from '../call/ffi.ts';

const SYS_quotactl_fd = 443;
const c_quotactl = libc.func('long syscall(long nr, long fd, long command, long id, void *data)');
const c_ioctl = libc.func('int ioctl(int fd, ulong request, void *data)');

/** include/uapi/linux/fs.h; struct fsxattr has 28 bytes. */
const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
const FS_XFLAG_PROJINHERIT = 0x200;
const fsxattrBytes = 28;

/** include/uapi/linux/quota.h and dqblk_xfs.h. The low byte of a command is the type of quota. */
const PRJQUOTA = 2;
const command = (number: number): number => number * 256 + PRJQUOTA;
const Q_GETQUOTA = command(0x800007);
const Q_SETQUOTA = command(0x800008);
const Q_XGETQSTATV = command(0x5808);
const QIF_LIMITS = 0x5;
const FS_QUOTA_PDQ_ACCT = 0x10;
const FS_QUOTA_PDQ_ENFD = 0x20;
/** Unit of the limits in struct if_dqblk; its usage is in bytes. */
const limitBlockBytes = 1024;
const dqblkBytes = 72;

/** Whether a file system accounts projects, and enforces their limits. */
export type QuotaState = { readonly isCounted: boolean; readonly isEnforced: boolean };

/** @param fd fd of any directory on the file system. */
export function readQuotaState(fd: number): QuotaState {
  const data = Buffer.alloc(256);
  data.writeInt8(1, 0); // Version of the struct.
  try {
    checked(c_quotactl(SYS_quotactl_fd, fd, Q_XGETQSTATV, 0, data), () => 'read the quota state');
  } catch (error) {
    // Quotas are not built in, not supported by the file system, or not enabled.
    if (isErrno(error, 'ENOSYS', 'EINVAL', 'ESRCH', 'EOPNOTSUPP', 'ENOTSUP', 'ENODEV', 'ENOTBLK', 'EPERM'))
      return { isCounted: false, isEnforced: false };
    throw error;
  }
  const flags = data.readUInt16LE(2);
  return { isCounted: (flags & FS_QUOTA_PDQ_ACCT) !== 0, isEnforced: (flags & FS_QUOTA_PDQ_ENFD) !== 0 };
}

export type ProjectUse = { readonly bytes: number; readonly inodes: number /** 0 for no limit. */; readonly limitBytes: number };

/** @param fd fd of any directory on the file system. */
export function readProject(fd: number, project: number): ProjectUse {
  const data = Buffer.alloc(dqblkBytes);
  try {
    checked(c_quotactl(SYS_quotactl_fd, fd, Q_GETQUOTA, project, data), () => `read the quota of project ${project}`);
  } catch (error) {
    // xfs returns ENOENT for a project without files that never had a limit.
    if (isErrno(error, 'ENOENT')) return { bytes: 0, inodes: 0, limitBytes: 0 };
    throw error;
  }
  const at = (offset: number) => Number(data.readBigUInt64LE(offset));
  return { bytes: at(16), inodes: at(40), limitBytes: at(0) * limitBlockBytes };
}

/** @param limitBytes rounded up to a KiB; 0 for no limit. */
export function limitProject(fd: number, project: number, limitBytes: number): void {
  const data = Buffer.alloc(dqblkBytes);
  data.writeBigUInt64LE(BigInt(Math.ceil(limitBytes / limitBlockBytes)), 0);
  data.writeUInt32LE(QIF_LIMITS, 64);
  checked(c_quotactl(SYS_quotactl_fd, fd, Q_SETQUOTA, project, data), () => `limit project ${project} to ${limitBytes} bytes`);
}

/** Returns the project of a directory; 0 for none. */
export function projectOf(directory: string): number {
  return withAttributes(directory, (_fd, attributes) => attributes.readUInt32LE(12));
}

/** Sets the project of a directory. Entries created in it later inherit the project. */
export function setProject(directory: string, project: number): void {
  withAttributes(directory, (fd, attributes) => {
    attributes.writeUInt32LE((attributes.readUInt32LE(0) | FS_XFLAG_PROJINHERIT) >>> 0, 0);
    attributes.writeUInt32LE(project, 12);
    checked(c_ioctl(fd, FS_IOC_FSSETXATTR, attributes), () => `set the project of ${directory} to ${project}`);
  });
}

function withAttributes<T>(directory: string, use: (fd: number, attributes: Buffer) => T): T {
  const fd = openSync(directory, 'r');
  try {
    const attributes = Buffer.alloc(fsxattrBytes);
    checked(c_ioctl(fd, FS_IOC_FSGETXATTR, attributes), () => `read the project of ${directory}`);
    return use(fd, attributes);
  } finally {
    closeSync(fd);
  }
}
