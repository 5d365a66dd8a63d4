/**
 * The profile `RuntimeDefault`: allows the system calls of ordinary programs and fails all others with EPERM. Data only.
 *
 * The allowed calls are those of the default profiles of Docker and containerd in 2026, which images are built for, grouped by purpose.
 * Not allowed on purpose: io_uring (its operations bypass every filter), keyrings, userfaultfd, NUMA without SYS_NICE, namespaces and mounts
 * without SYS_ADMIN, sockets of other families than those of ordinary networks. test/data/seccomp-peer.json has containerd's answer to each call.
 */
import { noCondition, type SeccompArg, type SeccompRule, type SeccompRules } from './seccomp-profile.ts';

const files = [
  ...['access', 'chdir', 'close', 'close_range', 'creat', 'dup', 'dup2', 'dup3', 'faccessat', 'faccessat2', 'fchdir', 'fcntl', 'fcntl64', 'flock'],
  ...['getcwd', 'ioctl', '_llseek', 'lseek', 'name_to_handle_at', 'open', 'openat', 'openat2', 'pipe', 'pipe2', 'umask'],
  ...['chmod', 'fchmod', 'fchmodat', 'fchmodat2', 'chown', 'chown32', 'fchown', 'fchown32', 'fchownat', 'lchown', 'lchown32'],
  ...[
    'getdents',
    'getdents64',
    'link',
    'linkat',
    'mkdir',
    'mkdirat',
    'mknod',
    'mknodat',
    'readlink',
    'readlinkat',
    'rename',
    'renameat',
    'renameat2',
  ],
  ...['rmdir', 'symlink', 'symlinkat', 'unlink', 'unlinkat', 'truncate', 'truncate64', 'ftruncate', 'ftruncate64', 'fallocate'],
  ...['stat', 'stat64', 'lstat', 'lstat64', 'fstat', 'fstat64', 'fstatat64', 'newfstatat', 'statx', 'statfs', 'statfs64', 'fstatfs', 'fstatfs64'],
  ...['listmount', 'statmount', 'futimesat', 'utime', 'utimes', 'utimensat', 'utimensat_time64'],
  ...['getxattr', 'getxattrat', 'lgetxattr', 'fgetxattr', 'listxattr', 'listxattrat', 'llistxattr', 'flistxattr'],
  ...['setxattr', 'setxattrat', 'lsetxattr', 'fsetxattr', 'removexattr', 'removexattrat', 'lremovexattr', 'fremovexattr'],
  ...['fanotify_mark', 'inotify_add_watch', 'inotify_init', 'inotify_init1', 'inotify_rm_watch'],
];

const io = [
  ...[
    'read',
    'readv',
    'pread64',
    'preadv',
    'preadv2',
    'write',
    'writev',
    'pwrite64',
    'pwritev',
    'pwritev2',
    'readahead',
    'fadvise64',
    'fadvise64_64',
  ],
  ...[
    'cachestat',
    'copy_file_range',
    'sendfile',
    'sendfile64',
    'splice',
    'tee',
    'vmsplice',
    'sync',
    'syncfs',
    'fsync',
    'fdatasync',
    'sync_file_range',
  ],
  ...['io_cancel', 'io_destroy', 'io_getevents', 'io_pgetevents', 'io_pgetevents_time64', 'io_setup', 'io_submit', 'ioprio_get', 'ioprio_set'],
  ...['epoll_create', 'epoll_create1', 'epoll_ctl', 'epoll_ctl_old', 'epoll_pwait', 'epoll_pwait2', 'epoll_wait', 'epoll_wait_old'],
  ...['eventfd', 'eventfd2', 'poll', 'ppoll', 'ppoll_time64', 'select', '_newselect', 'pselect6', 'pselect6_time64', 'signalfd', 'signalfd4'],
];

const memory = [
  ...['brk', 'madvise', 'map_shadow_stack', 'membarrier', 'memfd_create', 'memfd_secret', 'mincore', 'mlock', 'mlock2', 'mlockall', 'mmap', 'mmap2'],
  ...['mprotect', 'mremap', 'mseal', 'msync', 'munlock', 'munlockall', 'munmap', 'pkey_alloc', 'pkey_free', 'pkey_mprotect', 'process_mrelease'],
  'remap_file_pages',
];

const processes = [
  ...['execve', 'execveat', 'exit', 'exit_group', 'fork', 'vfork', 'wait4', 'waitid', 'waitpid', 'getpid', 'getppid', 'gettid', 'getpgid', 'getpgrp'],
  ...['setpgid', 'getsid', 'setsid', 'pidfd_open', 'pidfd_send_signal', 'prctl', 'set_tid_address', 'get_thread_area', 'set_thread_area'],
  ...['get_robust_list', 'set_robust_list', 'rseq', 'restart_syscall', 'getcpu', 'getrusage', 'sysinfo', 'times', 'uname', 'getrandom'],
  ...['getpriority', 'setpriority', 'getrlimit', 'setrlimit', 'ugetrlimit', 'prlimit64', 'sched_get_priority_max', 'sched_get_priority_min'],
  ...['sched_getaffinity', 'sched_getattr', 'sched_getparam', 'sched_getscheduler', 'sched_rr_get_interval', 'sched_rr_get_interval_time64'],
  ...['sched_setaffinity', 'sched_setattr', 'sched_setparam', 'sched_setscheduler', 'sched_yield', 'uretprobe', 'riscv_hwprobe'],
  ...['futex', 'futex_time64', 'futex_requeue', 'futex_wait', 'futex_waitv', 'futex_wake'],
];

const identities = [
  ...['getuid', 'getuid32', 'geteuid', 'geteuid32', 'getgid', 'getgid32', 'getegid', 'getegid32', 'getgroups', 'getgroups32'],
  ...['getresuid', 'getresuid32', 'getresgid', 'getresgid32', 'setuid', 'setuid32', 'setgid', 'setgid32', 'setgroups', 'setgroups32'],
  ...['setreuid', 'setreuid32', 'setregid', 'setregid32', 'setresuid', 'setresuid32', 'setresgid', 'setresgid32'],
  ...['setfsuid', 'setfsuid32', 'setfsgid', 'setfsgid32', 'capget', 'capset'],
];

/** A process may restrict itself further. */
const sandboxing = [
  ...['landlock_add_rule', 'landlock_create_ruleset', 'landlock_restrict_self', 'seccomp'],
  ...['lsm_get_self_attr', 'lsm_list_modules', 'lsm_set_self_attr'],
];

const signals = [
  ...['kill', 'tgkill', 'tkill', 'pause', 'sigaltstack', 'sigprocmask', 'sigreturn', 'rt_sigaction', 'rt_sigpending', 'rt_sigprocmask'],
  ...['rt_sigqueueinfo', 'rt_sigreturn', 'rt_sigsuspend', 'rt_sigtimedwait', 'rt_sigtimedwait_time64', 'rt_tgsigqueueinfo'],
];

/** adjtimex and clock_adjtime can read the clock; for setting it the kernel requires CAP_SYS_TIME. */
const times = [
  ...['adjtimex', 'clock_adjtime', 'clock_adjtime64', 'clock_getres', 'clock_getres_time64', 'clock_gettime', 'clock_gettime64'],
  ...['clock_nanosleep', 'clock_nanosleep_time64', 'nanosleep', 'gettimeofday', 'time', 'alarm', 'getitimer', 'setitimer'],
  ...['timer_create', 'timer_delete', 'timer_getoverrun', 'timer_gettime', 'timer_gettime64', 'timer_settime', 'timer_settime64'],
  ...['timerfd_create', 'timerfd_gettime', 'timerfd_gettime64', 'timerfd_settime', 'timerfd_settime64'],
];

/**
 * socketcall multiplexes these and socket(2) on i386. A filter cannot see its arguments, which are in memory, so a 32-bit program can create sockets
 * of every family. It is allowed nevertheless, as in containerd 2.4.2 and Docker since 29.4.3: glibc uses it for all sockets of 32-bit programs, and
 * Docker 29.4.2, which denied it, left them without a network. On nodes with AppArmor, plan/apparmor.ts denies AF_ALG and AF_VSOCK there, too.
 */
const network = [
  ...['accept', 'accept4', 'bind', 'connect', 'getpeername', 'getsockname', 'getsockopt', 'listen', 'recv', 'recvfrom', 'recvmmsg'],
  ...['recvmmsg_time64', 'recvmsg', 'send', 'sendmmsg', 'sendmsg', 'sendto', 'setsockopt', 'shutdown', 'socketcall'],
];

const systemV = [
  ...[
    'ipc',
    'msgctl',
    'msgget',
    'msgrcv',
    'msgsnd',
    'semctl',
    'semget',
    'semop',
    'semtimedop',
    'semtimedop_time64',
    'shmat',
    'shmctl',
    'shmdt',
    'shmget',
  ],
  ...['mq_getsetattr', 'mq_notify', 'mq_open', 'mq_timedreceive', 'mq_timedreceive_time64', 'mq_timedsend', 'mq_timedsend_time64', 'mq_unlink'],
];

/** Capability to the system calls that it allows. The kernel still checks the capability in each call. */
const byCapability: Readonly<Record<string, readonly string[]>> = {
  CAP_BPF: ['bpf'],
  CAP_DAC_READ_SEARCH: ['open_by_handle_at'],
  CAP_PERFMON: ['perf_event_open'],
  CAP_SYS_ADMIN: [
    ...['bpf', 'clone', 'clone3', 'fanotify_init', 'lookup_dcookie', 'perf_event_open', 'quotactl', 'quotactl_fd', 'setdomainname', 'sethostname'],
    ...['setns', 'syslog', 'unshare'],
    ...['fsconfig', 'fsmount', 'fsopen', 'fspick', 'mount', 'mount_setattr', 'move_mount', 'open_tree', 'umount', 'umount2'],
  ],
  CAP_SYS_BOOT: ['reboot'],
  CAP_SYS_CHROOT: ['chroot'],
  CAP_SYS_MODULE: ['delete_module', 'finit_module', 'init_module'],
  CAP_SYS_NICE: ['get_mempolicy', 'mbind', 'set_mempolicy', 'set_mempolicy_home_node'],
  CAP_SYS_PACCT: ['acct'],
  CAP_SYS_PTRACE: ['kcmp', 'pidfd_getfd', 'process_madvise'],
  CAP_SYS_RAWIO: ['ioperm', 'iopl'],
  CAP_SYS_TIME: ['clock_settime', 'clock_settime64', 'settimeofday', 'stime'],
  CAP_SYS_TTY_CONFIG: ['vhangup'],
  CAP_SYSLOG: ['syslog'],
};

const byArch: readonly (readonly [readonly string[], readonly string[]])[] = [
  [['amd64'], ['arch_prctl', 'modify_ldt']],
  [['arm64'], ['arm_fadvise64_64', 'arm_sync_file_range', 'breakpoint', 'cacheflush', 'set_tls', 'sync_file_range2']],
];

/**
 * Socket families that containers may use: include/linux/socket.h. All others fail with EPERM, also families of later kernels. Each family is kernel
 * code that is loaded on first use, without a capability: CVE-2026-31431 was in AF_ALG (38), and AF_VSOCK (40) reaches the hypervisor's host.
 * containerd 2.4.2 and moby/profiles 0.3.0 also list the families that exist, without these two, up to AF_MCTP (45).
 */
const socketFamilies = { unix: 1n, inet: 2n, inet6: 10n, netlink: 16n, packet: 17n };

/** The kernel takes the family from the low 32 bits of the argument. A comparison of all 64 bits would see a different family if a higher bit is set. */
const lowWord = 0xffffffffn;

/** PER_LINUX and PER_LINUX32, each also with UNAME26, and the value that only queries: personality(2). */
const personalities = [0x0n, 0x8n, 0x20000n, 0x20008n, 0xffffffffn];

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (CLONE_NEWTIME is not a flag of clone(2).) */
const namespaceFlags = 0x20000n | 0x2000000n | 0x4000000n | 0x8000000n | 0x10000000n | 0x20000000n | 0x40000000n;

const withoutAdmin = { excludes: { ...noCondition, capabilities: ['CAP_SYS_ADMIN'] } };
const ENOSYS = 38;

export const defaultProfile: SeccompRules = {
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrno: 1,
  architectures: [],
  archMap: [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: ['SCMP_ARCH_ARM'] },
  ],
  flags: 0,
  rules: [
    allow([...files, ...io, ...memory, ...processes, ...identities, ...sandboxing, ...signals, ...times, ...network, ...systemV]),
    // Before Linux 4.8, a tracer could change a system call after the filter had checked it.
    { ...allow(['process_vm_readv', 'process_vm_writev', 'ptrace']), includes: { ...noCondition, minKernel: [4, 8] } },
    {
      ...allow(['process_vm_readv', 'process_vm_writev', 'ptrace']),
      includes: { ...noCondition, capabilities: ['CAP_SYS_PTRACE'] },
      excludes: { ...noCondition, minKernel: [4, 8] },
    },
    // socketpair creates a socket before it fails for a family without pairs.
    ...Object.values(socketFamilies).map((family) =>
      allow(['socket', 'socketpair'], { index: 0, op: 'SCMP_CMP_MASKED_EQ', value: lowWord, valueTwo: family }),
    ),
    ...personalities.map((value) => allow(['personality'], { index: 0, op: 'SCMP_CMP_EQ', value, valueTwo: 0n })),
    ...byArch.map(([arches, names]) => ({ ...allow(names), includes: { ...noCondition, arches } })),
    ...Object.entries(byCapability).map(([name, names]) => ({ ...allow(names), includes: { ...noCondition, capabilities: [name] } })),
    // Threads and child processes, but no new namespaces.
    { ...allow(['clone'], { index: 0, op: 'SCMP_CMP_MASKED_EQ', value: namespaceFlags, valueTwo: 0n }), ...withoutAdmin },
    // A filter cannot see its flags, which are in memory. With ENOSYS, C libraries fall back to clone(2).
    { ...allow(['clone3']), action: 'SCMP_ACT_ERRNO', errno: ENOSYS, ...withoutAdmin },
  ],
};

function allow(names: readonly string[], ...args: readonly SeccompArg[]): SeccompRule {
  return { names, action: 'SCMP_ACT_ALLOW', errno: 0, args, includes: noCondition, excludes: noCondition };
}
