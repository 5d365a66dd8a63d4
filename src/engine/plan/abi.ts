/**
 * Constants of the Linux ABI that plans use. Pure data. The names are the kernel's, so that its man pages explain them.
 *
 * Each object is one flag word, unless it says otherwise. describePlan() converts a word back to these names.
 */

/** arm64 has other numbers than x86 for four open(2) flags (arch/arm64/include/uapi/asm/fcntl.h). */
const isArm = process.arch === 'arm64';

/** open(2), openat2(2). */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DIRECTORY: isArm ? 0o40000 : 0o200000,
  NOFOLLOW: isArm ? 0o100000 : 0o400000,
  CLOEXEC: 0o2000000,
  PATH: 0o10000000,
} as const;

/** openat2(2). */
export const RESOLVE = { NO_XDEV: 1, NO_MAGICLINKS: 2, NO_SYMLINKS: 4, BENEATH: 8, IN_ROOT: 16 } as const;

/** The `*at` family. */
export const AT = {
  SYMLINK_NOFOLLOW: 0x100,
  REMOVEDIR: 0x200,
  SYMLINK_FOLLOW: 0x400,
  NO_AUTOMOUNT: 0x800,
  EMPTY_PATH: 0x1000,
  RECURSIVE: 0x8000,
} as const;

/** mount(2). */
export const MS = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  REMOUNT: 32,
  BIND: 4096,
  MOVE: 8192,
  REC: 16384,
  SILENT: 32768,
  PRIVATE: 1 << 18,
  SLAVE: 1 << 19,
  SHARED: 1 << 20,
  RELATIME: 1 << 21,
} as const;

/** umount2(2). */
export const MNT = { FORCE: 1, DETACH: 2, EXPIRE: 4, NOFOLLOW: 8 } as const;

/** fsmount(2), mount_setattr(2). */
export const MOUNT_ATTR = {
  RDONLY: 1,
  NOSUID: 2,
  NODEV: 4,
  NOEXEC: 8,
  NOATIME: 0x10,
  STRICTATIME: 0x20,
  NODIRATIME: 0x80,
  IDMAP: 0x100000,
  NOSYMFOLLOW: 0x200000,
} as const;

/** fsopen(2) and fsmount(2): one flag each, with the same value. */
export const FSOPEN = { CLOEXEC: 1 } as const;

/** open_tree(2). The `AT` flags EMPTY_PATH, RECURSIVE and SYMLINK_NOFOLLOW belong to the same word. */
export const OPEN_TREE = { CLONE: 1, CLOEXEC: 0o2000000 } as const;

/** move_mount(2). */
export const MOVE_MOUNT = { F_SYMLINKS: 1, F_AUTOMOUNTS: 2, F_EMPTY_PATH: 4, T_SYMLINKS: 0x10, T_AUTOMOUNTS: 0x20, T_EMPTY_PATH: 0x40 } as const;

/** clone(2), unshare(2), setns(2). */
export const CLONE = {
  NEWTIME: 0x80,
  NEWNS: 0x20000,
  NEWCGROUP: 0x2000000,
  NEWUTS: 0x4000000,
  NEWIPC: 0x8000000,
  NEWUSER: 0x10000000,
  NEWPID: 0x20000000,
  NEWNET: 0x40000000,
} as const;

/** The file type bits of a mode. */
export const S_IF = { IFIFO: 0o10000, IFCHR: 0o20000, IFDIR: 0o40000, IFBLK: 0o60000, IFREG: 0o100000 } as const;

/** close_range(2). */
export const CLOSE_RANGE = { UNSHARE: 2, CLOEXEC: 4 } as const;

/** prctl(2): options, not bits. */
export const PR = {
  SET_PDEATHSIG: 1,
  SET_DUMPABLE: 4,
  SET_KEEPCAPS: 8,
  CAPBSET_DROP: 24,
  SET_SECUREBITS: 28,
  SET_NO_NEW_PRIVS: 38,
  CAP_AMBIENT: 47,
} as const;

/** prctl(PR_CAP_AMBIENT, ...): the second argument. */
export const PR_CAP_AMBIENT = { IS_SET: 1, RAISE: 2, LOWER: 3, CLEAR_ALL: 4 } as const;

/** prlimit(2): resources, not bits. */
export const RLIMIT = {
  CPU: 0,
  FSIZE: 1,
  DATA: 2,
  STACK: 3,
  CORE: 4,
  RSS: 5,
  NPROC: 6,
  NOFILE: 7,
  MEMLOCK: 8,
  AS: 9,
  LOCKS: 10,
  SIGPENDING: 11,
  MSGQUEUE: 12,
  NICE: 13,
  RTPRIO: 14,
  RTTIME: 15,
} as const;

/** keyctl(2): operations, not bits. */
export const KEYCTL = { JOIN_SESSION_KEYRING: 1 } as const;

/** keyctl(2): keys by relation to the caller, not bits. */
export const KEY_SPEC = { SESSION_KEYRING: -3 } as const;

/** keyctl_setperm(3): permissions of those who possess a key, and of its user. */
export const KEY = { POS_ALL: 0x3f000000, USR_SEARCH: 0x80000 } as const;

/** Classic BPF of seccomp(2): whole instruction codes of include/uapi/linux/bpf_common.h. */
export const BPF = { LOAD_WORD: 0x20, JEQ: 0x15, JSET: 0x45, RETURN: 0x06 } as const;
/** seccomp(2): return values, with an errno in the low half. */
export const SECCOMP_RET = { KILL_PROCESS: 0x80000000, ERRNO: 0x50000, ALLOW: 0x7fff0000 } as const;
/** include/uapi/linux/audit.h. */
export const AUDIT_ARCH = { X86_64: 0xc000003e, AARCH64: 0xc00000b7 } as const;
/** mmap(2). */
export const PROT = { EXEC: 4 } as const;

/** socket(2). */
export const AF = { UNIX: 1, INET: 2, NETLINK: 16 } as const;
export const SOCK = { STREAM: 1, DGRAM: 2, SEQPACKET: 5, NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;

/** ioctl(2): requests for terminals and network interfaces. */
export const IOCTL = {
  TIOCSCTTY: 0x540e,
  TIOCSWINSZ: 0x5414,
  TIOCSPTLCK: 0x40045431,
  TIOCGPTPEER: 0x5441,
  SIOCGIFFLAGS: 0x8913,
  SIOCSIFFLAGS: 0x8914,
} as const;

/** statfs(2): magic numbers of file systems, not bits. Source: include/uapi/linux/magic.h. */
export const FS_MAGIC = { PROC: 0x9fa0, SYSFS: 0x62656572, DEVPTS: 0x1cd1 } as const;

/** errno(3) values that plans may tolerate. They are the same on x86 and arm64. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSPC: 28,
  EROFS: 30,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  EOPNOTSUPP: 95,
  EDQUOT: 122,
} as const;

export type ErrnoName = keyof typeof ERRNO;
