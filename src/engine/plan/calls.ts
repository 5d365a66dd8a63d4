/**
 * The table of operations that a plan may contain: the same rows in the same order as src/monitor/ops.h (a test compares them).
 *
 * Pure data and its types. Knows the arguments of system calls, and nothing about containers.
 *
 * `kinds` is the monitor's view, one letter for each argument of the system call:
 *   F fd register   L 64-bit number   S text, NUL-terminated   B bytes   N length of the preceding bytes
 *   G number of 4-byte ids in the following bytes   H R C I bytes of exactly 8, 16, 24, 64   Z null   0-9 that number.
 * N, G, Z and digits are not part of the plan: the monitor supplies them. `args` is the plan's view: the names of the arguments and their encoding.
 */

/** The type of an argument in a plan. The encoders are in plan.ts. */
export type ArgKind =
  | 'fd'
  | 'number'
  | 'mode'
  | 'text'
  | 'bytes'
  | 'openHow'
  | 'mountAttr'
  | 'ids'
  | 'rlimit'
  | 'capabilities'
  | 'struct'
  | 'openFlags'
  | 'atFlags'
  | 'mountFlags'
  | 'umountFlags'
  | 'mountAttrFlags'
  | 'fsopenFlags'
  | 'openTreeFlags'
  | 'moveMountFlags'
  | 'cloneFlags'
  | 'closeRangeFlags'
  | 'nodeMode';

type Row = { readonly kinds: string; readonly args: Readonly<Record<string, ArgKind>> };

export const calls = {
  openat: { kinds: 'FSLL', args: { dir: 'fd', path: 'text', flags: 'openFlags', mode: 'mode' } },
  openat2: { kinds: 'FSBN', args: { dir: 'fd', path: 'text', how: 'openHow' } },
  close: { kinds: 'F', args: { fd: 'fd' } },
  close_range: { kinds: 'LLL', args: { first: 'number', last: 'number', flags: 'closeRangeFlags' } },
  dup3: { kinds: 'FLL', args: { fd: 'fd', to: 'number', flags: 'openFlags' } },
  mkdirat: { kinds: 'FSL', args: { dir: 'fd', path: 'text', mode: 'mode' } },
  mknodat: { kinds: 'FSLL', args: { dir: 'fd', path: 'text', mode: 'nodeMode', dev: 'number' } },
  symlinkat: { kinds: 'SFS', args: { target: 'text', dir: 'fd', path: 'text' } },
  unlinkat: { kinds: 'FSL', args: { dir: 'fd', path: 'text', flags: 'atFlags' } },
  fchownat: { kinds: 'FSLLL', args: { dir: 'fd', path: 'text', uid: 'number', gid: 'number', flags: 'atFlags' } },
  fchmodat: { kinds: 'FSL', args: { dir: 'fd', path: 'text', mode: 'mode' } },
  fchown: { kinds: 'FLL', args: { fd: 'fd', uid: 'number', gid: 'number' } },
  fchmod: { kinds: 'FL', args: { fd: 'fd', mode: 'mode' } },
  write: { kinds: 'FBN', args: { fd: 'fd', bytes: 'bytes' } },
  chdir: { kinds: 'S', args: { path: 'text' } },
  fchdir: { kinds: 'F', args: { fd: 'fd' } },
  chroot: { kinds: 'S', args: { path: 'text' } },
  pivot_root: { kinds: 'SS', args: { newRoot: 'text', putOld: 'text' } },
  mount: { kinds: 'SSSLS', args: { source: 'text', target: 'text', type: 'text', flags: 'mountFlags', data: 'text' } },
  umount2: { kinds: 'SL', args: { target: 'text', flags: 'umountFlags' } },
  fsopen: { kinds: 'SL', args: { type: 'text', flags: 'fsopenFlags' } },
  fsconfig_flag: { kinds: 'F0SZ0', args: { fs: 'fd', key: 'text' } },
  fsconfig_string: { kinds: 'F1SS0', args: { fs: 'fd', key: 'text', value: 'text' } },
  fsconfig_fd: { kinds: 'F5SZF', args: { fs: 'fd', key: 'text', value: 'fd' } },
  fsconfig_create: { kinds: 'F6ZZ0', args: { fs: 'fd' } },
  fsmount: { kinds: 'FLL', args: { fs: 'fd', flags: 'fsopenFlags', attributes: 'mountAttrFlags' } },
  open_tree: { kinds: 'FSL', args: { dir: 'fd', path: 'text', flags: 'openTreeFlags' } },
  move_mount: { kinds: 'FSFSL', args: { from: 'fd', fromPath: 'text', to: 'fd', toPath: 'text', flags: 'moveMountFlags' } },
  mount_setattr: { kinds: 'FSLBN', args: { dir: 'fd', path: 'text', flags: 'atFlags', attr: 'mountAttr' } },
  setns: { kinds: 'FL', args: { fd: 'fd', namespaces: 'cloneFlags' } },
  unshare: { kinds: 'L', args: { namespaces: 'cloneFlags' } },
  setsid: { kinds: '', args: {} },
  sethostname: { kinds: 'BN', args: { name: 'bytes' } },
  setdomainname: { kinds: 'BN', args: { name: 'bytes' } },
  prctl: { kinds: 'LLLLL', args: { option: 'number', a: 'number', b: 'number', c: 'number', d: 'number' } },
  capset: { kinds: 'HC', args: { capabilities: 'capabilities' } },
  setgroups: { kinds: 'GB', args: { groups: 'ids' } },
  setresuid: { kinds: 'LLL', args: { real: 'number', effective: 'number', saved: 'number' } },
  setresgid: { kinds: 'LLL', args: { real: 'number', effective: 'number', saved: 'number' } },
  prlimit64: { kinds: '0LRZ', args: { resource: 'number', limit: 'rlimit' } },
  umask: { kinds: 'L', args: { mask: 'mode' } },
  ioctl: { kinds: 'FLL', args: { fd: 'fd', request: 'number', value: 'number' } },
  /** For ioctls that take a struct of at most 64 bytes. What the kernel writes into it is discarded. */
  ioctl_struct: { kinds: 'FLI', args: { fd: 'fd', request: 'number', struct: 'struct' } },
  socket: { kinds: 'LLL', args: { family: 'number', type: 'number', protocol: 'number' } },
  bind: { kinds: 'FBN', args: { socket: 'fd', address: 'bytes' } },
  listen: { kinds: 'FL', args: { socket: 'fd', backlog: 'number' } },
  keyctl: { kinds: 'LS', args: { operation: 'number', name: 'text' } },
  keyctl_setperm: { kinds: '5LL', args: { key: 'number', permissions: 'number' } },
  /** SECCOMP_SET_MODE_FILTER with a program of 8-byte instructions. */
  seccomp: { kinds: 'LB', args: { flags: 'number', filter: 'bytes' } },
  /** Starts the process of the plan. The plan ends if it succeeds. */
  execve: { kinds: 'S', args: { path: 'text' } },
  /** Ends the plan: the child becomes pid 1 and reaps orphans until SIGTERM. Only as the last operation of the child. */
  reap: { kinds: '', args: {} },
  /** The child sends the master of its terminal to the monitor. */
  sendterminal: { kinds: 'F', args: { master: 'fd' } },
  /** The child sends an fd over a Unix socket, with one message of 16 bytes. */
  sendfd: { kinds: 'FF', args: { socket: 'fd', fd: 'fd' } },
  /** Continues the plan in a new child of the monitor, in new namespaces owned by the user namespace that was joined. Only in the child. */
  move: { kinds: 'L', args: { namespaces: 'cloneFlags' } },
  /** Reports to the daemon that the plan waits, then waits for a byte from a pipe. Only in the child. */
  hold: { kinds: 'F', args: { from: 'fd' } },
  /** Fails with EXDEV unless the fd is on a file system with this magic number: statfs(2). */
  expect_fs: { kinds: 'FL', args: { fd: 'fd', magic: 'number' } },
  /** Fails with EXDEV if the fd is on a file system with this magic number. */
  refuse_fs: { kinds: 'FL', args: { fd: 'fd', magic: 'number' } },
  /** Fails with ENODEV unless the fd is the character device with this number: makedev(3). */
  expect_device: { kinds: 'FL', args: { fd: 'fd', device: 'number' } },
  /** Fails with EXDEV unless the working directory is below the root, with ENOENT if it was removed: getcwd(2). */
  expect_inside: { kinds: '', args: {} },
} as const satisfies Readonly<Record<string, Row>>;

export type CallName = keyof typeof calls;

/** The operations by their number in an encoded plan, which is the position in the table. */
export const callNames = Object.keys(calls) as readonly CallName[];

/** The value of an argument of each kind in a plan. */
export type ArgValues = {
  /** The name of a register, or `cwd` for AT_FDCWD. */
  readonly fd: string;
  readonly number: number | bigint;
  readonly mode: number;
  /** UTF-8 without NUL. */
  readonly text: string;
  readonly bytes: Buffer;
  /** openat2(2); `resolve` is `RESOLVE` bits. */
  readonly openHow: { readonly flags: number; readonly mode?: number; readonly resolve?: number };
  /** mount_setattr(2); `propagation` is one of MS.PRIVATE, MS.SLAVE, MS.SHARED. */
  readonly mountAttr: { readonly set?: number; readonly clear?: number; readonly propagation?: number };
  readonly ids: readonly number[];
  /** Soft and hard limit. */
  readonly rlimit: { readonly soft: bigint; readonly hard: bigint };
  /** Bit n = capability number n. */
  readonly capabilities: { readonly effective: bigint; readonly permitted: bigint; readonly inheritable: bigint };
  /** At most 64 bytes, padded with zeros. */
  readonly struct: Buffer;
  readonly openFlags: number;
  readonly atFlags: number;
  readonly mountFlags: number;
  readonly umountFlags: number;
  readonly mountAttrFlags: number;
  readonly fsopenFlags: number;
  readonly openTreeFlags: number;
  readonly moveMountFlags: number;
  readonly cloneFlags: number;
  readonly closeRangeFlags: number;
  readonly nodeMode: number;
};
