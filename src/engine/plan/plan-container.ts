/**
 * Composes the whole setup of a container as one plan for the monitor, in the order that the kernel requires.
 *
 * Pure. External resources (mounts, namespaces, cgroups, logs) are registers that the daemon has opened.
 */

import { AF, CLONE, CLOSE_RANGE, KEYCTL, O, SOCK } from './abi.ts';
import { planAppArmor } from './apparmor.ts';
import { type Credentials, planCredentials, planRlimits } from './credentials.ts';
import { type DeviceNode, planDeviceLinks, planDeviceNodes, planStandardDevices, planTerminal } from './devices.ts';
import { attachRoot, enterRoot, inRoot, isolateMounts, makeInRoot, rootReg, sealRoot } from './enter-rootfs.ts';
import { joinUser } from './join-user.ts';
import { type MaskedPath, planMaskedPaths, planReadonlyPaths } from './masked-paths.ts';
import { cloneOf, moveOnto, normalPath, orderMounts, planMounts, type RootMount } from './mounts.ts';
import type { Op, Plan, Reg, Supervise } from './plan.ts';

/** How a process enters its cgroup. v1: it writes to `cgroup.procs` in each hierarchy. v2: it is cloned into the directory (CLONE_INTO_CGROUP). */
export type CgroupEntry = { readonly version: 1; readonly procs: readonly Reg[] } | { readonly version: 2; readonly directory: Reg };

/** A namespace to join. `flag` is its CLONE bit, `what` its name in messages. */
export type JoinedNamespace = { readonly reg: Reg; readonly flag: number; readonly what: string };

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
  readonly cgroup: CgroupEntry;
  /** Registers of fds 0, 1, 2; null: the terminal of planTerminal(). If a container does not inherit the first, its plan opens /dev/null in its root. */
  readonly stdio: readonly [Reg, Reg, Reg] | null;
};

export type ContainerPlan = {
  /** All inherited registers, in the order of the fds passed to the monitor. */
  readonly fds: readonly Reg[];
  readonly process: ProcessPlan;
  /** The net, ipc and uts namespaces of the sandbox. */
  readonly namespaces: readonly JoinedNamespace[];
  /** The sandbox's user namespace, which will own the mount and pid namespaces; devices must then be bind mounts. undefined: the host's. */
  readonly user?: Reg;
  /** A new pid namespace, the host's, or one to join. */
  readonly pid: 'new' | 'host' | { readonly join: Reg };
  readonly hasOwnCgroupNamespace: boolean;
  readonly mounts: readonly RootMount[];
  /** Whether /dev is berth's default, whose nodes must be created. */
  readonly hasStandardDev: boolean;
  readonly devices: readonly DeviceNode[];
  /** Symbolic links to create inside a mount with `keepAs`. */
  readonly links: readonly { readonly mount: Reg; readonly name: string; readonly target: string }[];
  readonly maskedPaths: readonly MaskedPath[];
  readonly readonlyPaths: readonly string[];
  readonly hasReadonlyRoot: boolean;
  /** Directories that the image declares as volumes: they stay writable in a read-only root. */
  readonly volumes: readonly string[];
  /** A pipe on which the plan waits while the daemon runs hooks, which see the complete root at `rootPlace`; undefined: no wait. */
  readonly hold?: Reg;
  readonly supervise: Extract<Supervise, { mode: 'container' }>;
};

/** Where the root is attached for hooks: relative to the container's state directory, which is their bundle. */
export const rootPlace = 'rootfs';

/** The container's state directory, which every plan of a container inherits. */
export const stateReg: Reg = 'state';

/** Returns the plan of a container. The registers that it uses must be in `fds`: encodePlan() asserts it. */
export function planContainer(container: ContainerPlan): Plan {
  const mounts = planMounts(orderMounts(container.mounts));
  const { process, user } = container;
  const isV2 = process.cgroup.version === 2;
  const taken = new Set(container.mounts.map((mount) => normalPath(mount.target)));
  // Works by fds and inside the root only, so it can run before or after pivot_root.
  const fill: Op[] = [
    ...mounts.attach,
    ...(container.hasStandardDev ? [...(user === undefined ? planStandardDevices(taken) : []), ...planDeviceLinks(taken)] : []),
    ...planDeviceNodes(container.devices),
    ...planLinks(container.links),
    ...mounts.seal,
  ];
  const child: Op[] = [
    ...planCgroupEntry(process.cgroup),
    ...planOomScore(process.oomScoreAdj),
    ...planAppArmor(process.appArmorProfile),
    ...container.namespaces.map(planJoin),
    ...(user === undefined ? [] : planUser(user, process, container.pid)),
    ...(container.hasOwnCgroupNamespace && isV2 ? [ownCgroupNamespace] : []),
    { call: 'setsid', note: 'start a session' },
    joinKeyring,
    { call: 'umask', mask: 0, note: 'clear the umask' },
    isolateMounts(),
    ...mounts.make,
    ...(container.hold === undefined
      ? [attachRoot('.'), ...enterRoot(), ...fill]
      : [attachRoot(rootPlace), ...fill, waitForHooks(container.hold), ...enterRoot()]),
    ...planMaskedPaths(container.maskedPaths),
    ...planReadonlyPaths(container.readonlyPaths),
    ...(process.stdio === null ? planTerminal(process.credentials.uid) : []),
    ...(process.stdio !== null && !container.fds.includes(process.stdio[0]) ? [openNull(process.stdio[0])] : []),
    ...planWorkingDir(process.workingDir),
    ...(container.hasReadonlyRoot ? [...planVolumes(container.volumes), sealRoot()] : []),
    ...planStart(user === undefined ? process : withoutLimits(process)),
  ];
  return {
    fds: container.fds,
    parent: [...planControlSocket(), ...(typeof container.pid === 'object' ? [joinPid(container.pid.join)] : [])],
    clone: {
      namespaces: user === undefined ? ownNamespaces(container.pid) : 0,
      ...(process.cgroup.version === 2 ? { cgroup: process.cgroup.directory } : {}),
    },
    child,
    process: { argv: process.argv, env: process.env },
    supervise: { ...container.supervise, control: 'control' },
  };
}

/** The socket through which the daemon reaches the monitor, even after a restart. Relative, because a socket path has at most 108 bytes: unix(7). */
const controlSocketName = 'control';

function planControlSocket(): Op[] {
  const address = Buffer.concat([Buffer.from([AF.UNIX, 0]), Buffer.from(`${controlSocketName}\0`)]);
  return [
    { call: 'fchdir', fd: stateReg, note: 'change the working directory to the state directory' },
    { call: 'unlinkat', dir: 'cwd', path: controlSocketName, flags: 0, tolerate: ['ENOENT'], note: 'remove an old control socket' },
    {
      call: 'socket',
      family: AF.UNIX,
      type: SOCK.STREAM | SOCK.CLOEXEC | SOCK.NONBLOCK,
      protocol: 0,
      out: 'control',
      note: 'create the control socket',
    },
    { call: 'bind', socket: 'control', address, note: 'bind the control socket' },
    { call: 'listen', socket: 'control', backlog: 64, note: 'listen on the control socket' },
  ];
}

const ownNamespaces = (pid: ContainerPlan['pid']): number => CLONE.NEWNS | (pid === 'new' ? CLONE.NEWPID : 0);

/** The limits come first, because they need privilege on the host. Only children enter a new pid namespace, so the plan continues in one (`move`). */
function planUser(user: Reg, process: ProcessPlan, pid: ContainerPlan['pid']): Op[] {
  const namespaces = ownNamespaces(pid);
  const note = 'create the namespaces of the container';
  return [
    ...planRlimits(process.credentials.rlimits),
    ...joinUser(user),
    pid === 'new' ? { call: 'move', namespaces, note } : { call: 'unshare', namespaces, note },
  ];
}

/** Returns the process without limits, for a process in a user namespace, whose limits planRlimits() has already set. */
export function withoutLimits(process: ProcessPlan): ProcessPlan {
  return { ...process, credentials: { ...process.credentials, rlimits: [] } };
}

/** Joins a pid namespace, which takes effect for children created afterwards: pid_namespaces(7). */
function joinPid(reg: Reg): Op {
  return { call: 'setns', fd: reg, namespaces: CLONE.NEWPID, note: 'join the pid namespace' };
}

/** Must come first, so that all memory is charged to the cgroup. With v2 the process is cloned into its cgroup. */
export function planCgroupEntry(cgroup: CgroupEntry): Op[] {
  if (cgroup.version === 2) return [];
  return cgroup.procs.map((fd): Op => ({ call: 'write', fd, bytes: Buffer.from('0'), note: `join the cgroup of ${fd}` }));
}

/** Must run while the host's /proc is visible. */
export function planOomScore(score: number): Op[] {
  return [
    { call: 'openat', dir: 'cwd', path: '/proc/self/oom_score_adj', flags: O.WRONLY | O.CLOEXEC, mode: 0, out: 'oom', note: 'open oom_score_adj' },
    { call: 'write', fd: 'oom', bytes: Buffer.from(String(score)), note: `set oom_score_adj to ${score}` },
    { call: 'close', fd: 'oom', note: 'close oom_score_adj' },
  ];
}

function planJoin(namespace: JoinedNamespace): Op {
  return { call: 'setns', fd: namespace.reg, namespaces: namespace.flag, note: `join the ${namespace.what} namespace of the sandbox` };
}

const ownCgroupNamespace: Op = { call: 'unshare', namespaces: CLONE.NEWCGROUP, note: 'create a cgroup namespace' };

/** Without it the container would see the daemon's keys. Tolerates kernels and seccomp filters without keyrings: keyrings(7). */
const joinKeyring: Op = {
  call: 'keyctl',
  operation: KEYCTL.JOIN_SESSION_KEYRING,
  name: '_ses.berth',
  tolerate: ['ENOSYS', 'EPERM', 'EACCES', 'EDQUOT'],
  note: 'start a session keyring',
};

function waitForHooks(from: Reg): Op {
  return { call: 'hold', from, note: 'wait for hooks' };
}

function planLinks(links: ContainerPlan['links']): Op[] {
  return links.map(
    ({ mount, name, target }): Op => ({ call: 'symlinkat', target, dir: mount, path: name, note: `create link ${name} to ${target}` }),
  );
}

/** Opens /dev/null in the container for stdin. A checkpoint could neither save nor restore a file of the host. */
function openNull(out: Reg): Op {
  return { call: 'openat2', dir: rootReg, path: '/dev/null', how: { flags: O.CLOEXEC, resolve: inRoot }, out, note: 'open /dev/null for stdin' };
}

/** Creates and enters the working directory. Its links are resolved inside the root. */
function planWorkingDir(path: string): Op[] {
  return [...makeInRoot(path, 'directory', 'cwd@'), { call: 'fchdir', fd: 'cwd@', note: `change the working directory to ${normalPath(path)}` }];
}

/** Bind-mounts each volume on itself: a separate mount is not affected by the read-only flag of the root. */
function planVolumes(paths: readonly string[]): Op[] {
  return paths.flatMap((path, i): Op[] => [
    ...makeInRoot(path, 'directory', `declared${i}@`),
    cloneOf(`declared${i}@`, `declared${i}`, `prepare volume ${path}`),
    moveOnto(`declared${i}`, `declared${i}@`, `mount volume ${path}`),
    { call: 'close', fd: `declared${i}`, note: `close volume ${path}` },
    { call: 'close', fd: `declared${i}@`, note: `close volume ${path}` },
  ]);
}

/** Returns the last operations of every plan that starts a program in a container. */
export function planStart(process: ProcessPlan): Op[] {
  const stdio: readonly Reg[] = process.stdio ?? ['tty', 'tty', 'tty'];
  return [
    ...stdio.map((fd, to): Op => ({ call: 'dup3', fd, to, flags: 0, note: `set fd ${to}` })),
    // The program must not inherit any other fd of the host.
    { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'set close-on-exec on all other fds' },
    { call: 'umask', mask: 0o022, note: 'set the umask' },
    ...planCredentials(process.credentials),
    ...process.executables.map((path, i): Op => {
      const isLast = i === process.executables.length - 1;
      return { call: 'execve', path, note: `start ${JSON.stringify(path)}`, ...(isLast ? {} : { tolerate: ['ENOENT', 'ENOTDIR', 'EACCES'] }) };
    }),
  ];
}
