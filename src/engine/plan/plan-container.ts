/**
 * Puts a container's set-up into the order the kernel wants: the whole of it, as one plan for the monitor.
 *
 * Pure. What comes from outside (mounts, namespaces, cgroups, logs) are registers that the daemon has opened.
 */

import { AF, CLONE, CLOSE_RANGE, KEYCTL, O, SOCK } from './abi.ts';
import { planAppArmor } from './apparmor.ts';
import { type Credentials, planCredentials, planRlimits } from './credentials.ts';
import { type DeviceNode, planDeviceLinks, planDeviceNodes, planStandardDevices, planTerminal } from './devices.ts';
import { joinUser } from './join-user.ts';
import {
  cloneOf,
  type MaskedPath,
  moveOnto,
  normalPath,
  orderMounts,
  planMaskedPaths,
  planMounts,
  planReadonlyPaths,
  type RootMount,
} from './mounts.ts';
import type { Op, Plan, Reg, Supervise } from './plan.ts';
import { attachRoot, enterRoot, inRoot, isolateMounts, makeInRoot, rootReg, sealRoot } from './rootfs.ts';

/** How a process gets into its cgroup. v1: a `cgroup.procs` to write to in each hierarchy. v2: the directory to be born in. */
export type CgroupEntry = { readonly version: 1; readonly procs: readonly Reg[] } | { readonly version: 2; readonly directory: Reg };

/** A namespace to join: `flag` is the CLONE bit of its kind. */
export type JoinedNamespace = { readonly reg: Reg; readonly flag: number; readonly what: string };

/** What a process is, in a new container as in a running one. */
export type ProcessPlan = {
  readonly argv: readonly string[];
  readonly env: readonly Buffer[];
  /** Tried in this order until one can be executed. Never empty. */
  readonly executables: readonly string[];
  readonly workingDir: string;
  readonly credentials: Credentials;
  /** Clamped to what the daemon may give. */
  readonly oomScoreAdj: number;
  readonly appArmorProfile?: string;
  readonly cgroup: CgroupEntry;
  /** Of fds 0, 1, 2; null: the terminal that planTerminal() makes. A container's fd 0 that is not handed over is its own /dev/null. */
  readonly stdio: readonly [Reg, Reg, Reg] | null;
};

export type ContainerPlan = {
  /** All inherited registers, in the order of the fds handed over. */
  readonly fds: readonly Reg[];
  readonly process: ProcessPlan;
  /** Net, ipc and uts of the sandbox. */
  readonly namespaces: readonly JoinedNamespace[];
  /** The sandbox's user namespace, which mounts and pids are to belong to; undefined: the host's. Devices must be mounts then. */
  readonly user?: Reg;
  /** Its own, the host's, or one to join. */
  readonly pid: 'new' | 'host' | { readonly join: Reg };
  readonly hasOwnCgroupNamespace: boolean;
  readonly mounts: readonly RootMount[];
  /** Whether /dev is berth's, with nodes to be made. */
  readonly hasStandardDev: boolean;
  readonly devices: readonly DeviceNode[];
  /** Symbolic links inside a kept mount. */
  readonly links: readonly { readonly mount: Reg; readonly name: string; readonly target: string }[];
  readonly maskedPaths: readonly MaskedPath[];
  readonly readonlyPaths: readonly string[];
  readonly hasReadonlyRoot: boolean;
  /** Directories that stay writable in a read-only root, as the image declares them. */
  readonly volumes: readonly string[];
  /** Where to wait for the daemon, whose hooks see the finished root at `rootPlace`; undefined: nowhere. */
  readonly hold?: Reg;
  readonly supervise: Extract<Supervise, { mode: 'container' }>;
};

/** For hooks, which know it by its path: below the container's state directory, their bundle. */
export const rootPlace = 'rootfs';

/** Registers that every container's plan takes from the daemon. */
export const stateReg: Reg = 'state';

/** Composes the plan of a container. Registers that it names must be in `fds`: encodePlan() asserts it. */
export function planContainer(container: ContainerPlan): Plan {
  const mounts = planMounts(orderMounts(container.mounts));
  const { process, user } = container;
  const isV2 = process.cgroup.version === 2;
  const taken = new Set(container.mounts.map((mount) => normalPath(mount.target)));
  // All of it by fds and inside the root, so that it is the same before the host's tree goes as after it.
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
    { call: 'setsid', note: 'starting a session' },
    joinKeyring,
    { call: 'umask', mask: 0, note: 'clearing the umask' },
    isolateMounts(),
    ...mounts.make,
    ...(container.hold === undefined
      ? [attachRoot('.'), ...enterRoot(), ...fill]
      : [attachRoot(rootPlace), ...fill, waitForHooks(container.hold), ...enterRoot()]),
    ...planMaskedPaths(container.maskedPaths),
    ...planReadonlyPaths(container.readonlyPaths),
    ...(process.stdio === null ? planTerminal(process.credentials.uid) : []),
    ...(process.stdio !== null && !container.fds.includes(process.stdio[0]) ? [ownNull(process.stdio[0])] : []),
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

/** Where the daemon reaches the monitor, also after its own restart; relative, for a socket's path is short. Source: unix(7). */
const controlSocketName = 'control';

function planControlSocket(): Op[] {
  const address = Buffer.concat([Buffer.from([AF.UNIX, 0]), Buffer.from(`${controlSocketName}\0`)]);
  return [
    { call: 'fchdir', fd: stateReg, note: "entering the container's state directory" },
    { call: 'unlinkat', dir: 'cwd', path: controlSocketName, flags: 0, tolerate: ['ENOENT'], note: 'removing an old control socket' },
    {
      call: 'socket',
      family: AF.UNIX,
      type: SOCK.STREAM | SOCK.CLOEXEC | SOCK.NONBLOCK,
      protocol: 0,
      out: 'control',
      note: 'making the control socket',
    },
    { call: 'bind', socket: 'control', address, note: 'binding the control socket' },
    { call: 'listen', socket: 'control', backlog: 64, note: 'listening on the control socket' },
  ];
}

const ownNamespaces = (pid: ContainerPlan['pid']): number => CLONE.NEWNS | (pid === 'new' ? CLONE.NEWPID : 0);

/** Limits first, for they are the host's. A pid namespace is for children only: so the plan goes on in one. */
function planUser(user: Reg, process: ProcessPlan, pid: ContainerPlan['pid']): Op[] {
  const namespaces = ownNamespaces(pid);
  const note = 'making the namespaces of the container';
  return [
    ...planRlimits(process.credentials.rlimits),
    ...joinUser(user),
    pid === 'new' ? { call: 'move', namespaces, note } : { call: 'unshare', namespaces, note },
  ];
}

/** For a process in a user namespace, whose limits planRlimits() has set. */
export function withoutLimits(process: ProcessPlan): ProcessPlan {
  return { ...process, credentials: { ...process.credentials, rlimits: [] } };
}

/** The pid namespace is that of children born from now on: pid_namespaces(7). */
function joinPid(reg: Reg): Op {
  return { call: 'setns', fd: reg, namespaces: CLONE.NEWPID, note: 'joining the pid namespace' };
}

/** First of all: from here on everything is charged where it belongs. With v2 it was born there. */
export function planCgroupEntry(cgroup: CgroupEntry): Op[] {
  if (cgroup.version === 2) return [];
  return cgroup.procs.map((fd): Op => ({ call: 'write', fd, bytes: Buffer.from('0'), note: `joining the cgroup of ${fd}` }));
}

/** While the host's /proc is in cgroupView. */
export function planOomScore(score: number): Op[] {
  return [
    { call: 'openat', dir: 'cwd', path: '/proc/self/oom_score_adj', flags: O.WRONLY | O.CLOEXEC, mode: 0, out: 'oom', note: 'opening oom_score_adj' },
    { call: 'write', fd: 'oom', bytes: Buffer.from(String(score)), note: `setting oom_score_adj to ${score}` },
    { call: 'close', fd: 'oom', note: 'closing oom_score_adj' },
  ];
}

function planJoin(namespace: JoinedNamespace): Op {
  return { call: 'setns', fd: namespace.reg, namespaces: namespace.flag, note: `joining the sandbox's ${namespace.what} namespace` };
}

const ownCgroupNamespace: Op = { call: 'unshare', namespaces: CLONE.NEWCGROUP, note: 'making a cgroup namespace' };

/** Else the container would see the daemon's keys. Kernels and filters without keyrings are fine: keyrings(7). */
const joinKeyring: Op = {
  call: 'keyctl',
  operation: KEYCTL.JOIN_SESSION_KEYRING,
  name: '_ses.berth',
  tolerate: ['ENOSYS', 'EPERM', 'EACCES', 'EDQUOT'],
  note: 'starting a session keyring',
};

function waitForHooks(from: Reg): Op {
  return { call: 'hold', from, note: 'waiting for hooks' };
}

function planLinks(links: ContainerPlan['links']): Op[] {
  return links.map(({ mount, name, target }): Op => ({ call: 'symlinkat', target, dir: mount, path: name, note: `linking ${name} to ${target}` }));
}

/** For want of input: the container's own, for a file of the host's could neither be saved by a checkpoint nor found again after one. */
function ownNull(out: Reg): Op {
  return { call: 'openat2', dir: rootReg, path: '/dev/null', how: { flags: O.CLOEXEC, resolve: inRoot }, out, note: 'opening /dev/null for input' };
}

/** Resolved in the root, whatever links lie on the way. */
function planWorkingDir(path: string): Op[] {
  return [...makeInRoot(path, 'directory', 'cwd@'), { call: 'fchdir', fd: 'cwd@', note: `entering ${normalPath(path)}` }];
}

/** A mount of its own keeps its own read-only flag. */
function planVolumes(paths: readonly string[]): Op[] {
  return paths.flatMap((path, i): Op[] => [
    ...makeInRoot(path, 'directory', `declared${i}@`),
    cloneOf(`declared${i}@`, `declared${i}`, `preparing volume ${path}`),
    moveOnto(`declared${i}`, `declared${i}@`, `mounting volume ${path}`),
    { call: 'close', fd: `declared${i}`, note: `closing volume ${path}` },
    { call: 'close', fd: `declared${i}@`, note: `closing volume ${path}` },
  ]);
}

/** The end of every plan that starts a program. */
export function planStart(process: ProcessPlan): Op[] {
  const stdio: readonly Reg[] = process.stdio ?? ['tty', 'tty', 'tty'];
  return [
    ...stdio.map((fd, to): Op => ({ call: 'dup3', fd, to, flags: 0, note: `connecting fd ${to}` })),
    // Nothing of the host's goes along, whatever is open.
    { call: 'close_range', first: 3, last: 0xffffffff, flags: CLOSE_RANGE.CLOEXEC, note: 'closing all other files at the start' },
    { call: 'umask', mask: 0o022, note: 'setting the umask' },
    ...planCredentials(process.credentials),
    ...process.executables.map((path, i): Op => {
      const isLast = i === process.executables.length - 1;
      return { call: 'execve', path, note: `starting ${JSON.stringify(path)}`, ...(isLast ? {} : { tolerate: ['ENOENT', 'ENOTDIR', 'EACCES'] }) };
    }),
  ];
}
