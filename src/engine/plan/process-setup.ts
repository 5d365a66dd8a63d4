/**
 * Plans what every process of a container gets, its first one and every exec: one list, so that neither can lack a part of it.
 *
 * Pure. The callers add only what differs: how the process comes into the namespaces, and what it prepares there.
 */
import { CLONE, CLOSE_RANGE, FS_MAGIC, KEY, KEY_SPEC, KEYCTL, O } from './abi.ts';
import { planAppArmor } from './apparmor.ts';
import { type Credentials, planCredentials, planRlimits } from './credentials.ts';
import type { Op, Reg } from './plan.ts';

/** How a process enters its cgroup. v1: it writes to `cgroup.procs` in each hierarchy. v2: it is cloned into the directory (CLONE_INTO_CGROUP). */
export type CgroupEntry = { readonly version: 1; readonly procs: readonly Reg[] } | { readonly version: 2; readonly directory: Reg };

/** A process, in a new or a running container. */
export type ProcessPlan = {
  readonly argv: readonly string[];
  readonly env: readonly Buffer[];
  /** Paths to try in this order until one can be executed. Never empty. */
  readonly executables: readonly string[];
  readonly workingDir: string;
  readonly credentials: Credentials;
  /** Clamped to what the daemon may set. */
  readonly oomScoreAdj: number;
  readonly appArmorProfile?: string;
  /** Part of the name of the container's session keyring: every process of the same user that knows it can join. undefined: a new keyring. */
  readonly keyringSecret?: string;
  readonly cgroup: CgroupEntry;
  /** Registers of fds 0, 1, 2; null: the terminal of planTerminal(). If a container does not inherit the first, its plan opens /dev/null in its root. */
  readonly stdio: readonly [Reg, Reg, Reg] | null;
};

export type ProcessPlace = {
  /** Whether `enter` joins a user namespace, in which no hard limit can be raised: the limits then come first. */
  readonly entersUser: boolean;
  /** Joins or creates the namespaces. */
  readonly enter: readonly Op[];
  /** Runs inside them: mounts, terminal, working directory. */
  readonly prepare: readonly Op[];
};

/**
 * Returns the child's operations, up to execve.
 *
 * What needs the host's /proc or privileges on the host comes before `enter`. The cgroup comes first of all, so that all memory is charged to it. The
 * session and its keyring come after `enter`: a keyring belongs to the user namespace in which it was created.
 */
export function planProcessSetup(process: ProcessPlan, { entersUser, enter, prepare }: ProcessPlace): Op[] {
  const { rlimits } = process.credentials;
  return [
    ...planCgroupEntry(process.cgroup),
    ...planOomScore(process.oomScoreAdj),
    ...planAppArmor(process.appArmorProfile),
    ...(entersUser ? planRlimits(rlimits) : []),
    ...enter,
    { call: 'setsid', note: 'start a session' },
    ...planKeyring(process.keyringSecret),
    ...prepare,
    ...planStdio(process.stdio),
    { call: 'umask', mask: 0o022, note: 'set the umask' },
    ...planCredentials({ ...process.credentials, rlimits: entersUser ? [] : rlimits }),
    ...planExecve(process.executables),
  ];
}

/**
 * Returns the operations that change the working directory to an opened one, and check that it is inside the root: another container may have moved it out
 * of a shared volume, and an fd of the host must never become one (CVE-2024-21626).
 */
export function enterWorkingDir(fd: Reg, path: string): Op[] {
  return [
    { call: 'fchdir', fd, note: `change the working directory to ${path}` },
    { call: 'expect_inside', note: `check that the working directory ${path} is inside the root` },
  ];
}

/** Must come first, so that all memory is charged to the cgroup. With v2 the process is cloned into its cgroup. */
export function planCgroupEntry(cgroup: CgroupEntry): Op[] {
  if (cgroup.version === 2) return [];
  return cgroup.procs.map((fd): Op => ({ call: 'write', fd, bytes: Buffer.from('0'), note: `join the cgroup (${fd})` }));
}

/** Must run while the host's /proc is visible. */
export function planOomScore(score: number): Op[] {
  return [
    { call: 'openat', dir: 'cwd', path: '/proc/self/oom_score_adj', flags: O.WRONLY | O.CLOEXEC, mode: 0, out: 'oom', note: 'open oom_score_adj' },
    { call: 'expect_fs', fd: 'oom', magic: FS_MAGIC.PROC, note: 'check that oom_score_adj is in a proc file system' },
    { call: 'write', fd: 'oom', bytes: Buffer.from(String(score)), note: `set oom_score_adj to ${score}` },
    { call: 'close', fd: 'oom', note: 'close oom_score_adj' },
  ];
}

/**
 * Joins the container's session keyring, or creates it; otherwise the process would have the keys of the daemon. Sources: keyrings(7),
 * security/keys/keyring.c, find_keyring_by_name().
 *
 * Keyrings are not namespaced: other containers run as the same user. The kernel's default permissions let them list, read and link the keyring by its
 * number. Only its members may do so here; the user may only search it, which joining by name requires, and which finds no key without possession.
 */
export function planKeyring(secret: string | undefined): Op[] {
  return [
    {
      call: 'keyctl',
      operation: KEYCTL.JOIN_SESSION_KEYRING,
      // Without a secret, the permissions prevent that another process joins.
      name: `_ses.${secret ?? 'berth'}`,
      // A kernel without keyrings, or a seccomp filter of the daemon, which the container inherits. Nothing else: the daemon's keys would remain.
      tolerate: ['ENOSYS', 'EPERM'],
      note: 'join the session keyring of the container',
    },
    {
      call: 'keyctl_setperm',
      key: KEY_SPEC.SESSION_KEYRING,
      permissions: KEY.POS_ALL | (secret === undefined ? 0 : KEY.USR_SEARCH),
      tolerate: ['ENOSYS', 'EPERM'],
      note: 'set the permissions of the session keyring',
    },
  ];
}

function planStdio(stdio: ProcessPlan['stdio']): Op[] {
  return [
    ...(stdio ?? ['tty', 'tty', 'tty']).map((fd, to): Op => ({ call: 'dup3', fd, to, flags: 0, note: `set fd ${to}` })),
    // The program must not inherit any other fd of the host.
    { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all other fds' },
  ];
}

function planExecve(executables: readonly string[]): Op[] {
  return executables.map((path, i): Op => {
    const isLast = i === executables.length - 1;
    return { call: 'execve', path, note: `start ${JSON.stringify(path)}`, ...(isLast ? {} : { tolerate: ['ENOENT', 'ENOTDIR', 'EACCES'] }) };
  });
}

/** Returns the operations that join the namespace. What needs privilege on the host must come before: limits, oom_score_adj, cgroups. */
export function joinUser(reg: Reg): Op[] {
  return [{ call: 'setns', fd: reg, namespaces: CLONE.NEWUSER, note: 'join the user namespace of the pod' }, ...becomeRoot()];
}

/** Returns the operations that become root. The host's root is not mapped in the user namespace: its files would have no valid owner. */
export function becomeRoot(): Op[] {
  return [
    { call: 'setresgid', real: 0, effective: 0, saved: 0, note: 'set the group to root of the user namespace' },
    { call: 'setresuid', real: 0, effective: 0, saved: 0, note: 'set the user to root of the user namespace' },
  ];
}
