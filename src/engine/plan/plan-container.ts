/**
 * Composes the whole setup of a container as one plan for the monitor, in the order that the kernel requires.
 *
 * Pure. External resources (mounts, namespaces, cgroups, logs) are registers that the daemon has opened.
 */

import { AF, CLONE, SOCK } from './abi.ts';
import { confineMonitor } from './confine-monitor.ts';
import { type DeviceNode, openNull, planDeviceLinks, planDeviceNodes, planStandardDevices, planTerminal } from './devices.ts';
import { attachRoot, enterRoot, isolateMounts, makeInRoot, openKernelTrees, sealRoot } from './enter-rootfs.ts';
import { type MaskedPath, planMaskedPaths, planReadonlyPaths } from './masked-paths.ts';
import { normalPath, orderMounts, planMounts, type RootMount } from './mounts.ts';
import type { Op, Plan, Reg, Supervise } from './plan.ts';
import { enterWorkingDir, joinUser, type ProcessPlan, planProcessSetup } from './process-setup.ts';

/** A namespace to join. `flag` is its CLONE bit, `what` its name in messages. */
export type JoinedNamespace = { readonly reg: Reg; readonly flag: number; readonly what: string };

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
  /** Whether /sys is berth's default, a sysfs. /proc always is a proc file system: volumes on it are checked. */
  readonly hasStandardSys: boolean;
  readonly devices: readonly DeviceNode[];
  /** Symbolic links to create inside a mount with `keepAs`. */
  readonly links: readonly { readonly mount: Reg; readonly name: string; readonly target: string }[];
  readonly maskedPaths: readonly MaskedPath[];
  /** A detached read-only mount of the host's null device, which hides masked files. */
  readonly mask: Reg;
  readonly readonlyPaths: readonly string[];
  readonly hasReadonlyRoot: boolean;
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
  const enter: Op[] = [
    ...container.namespaces.map(planJoin),
    ...(user === undefined ? [] : planUser(user, container.pid)),
    ...(container.hasOwnCgroupNamespace && isV2 ? [ownCgroupNamespace] : []),
  ];
  const prepare: Op[] = [
    { call: 'umask', mask: 0, note: 'clear the umask' },
    isolateMounts(),
    ...mounts.make,
    ...(container.hold === undefined
      ? [attachRoot('.'), ...enterRoot(), ...fill]
      : [attachRoot(rootPlace), ...fill, waitForHooks(container.hold), ...enterRoot()]),
    ...(container.maskedPaths.length + container.readonlyPaths.length > 0 ? openKernelTrees(container) : []),
    ...planMaskedPaths(container.maskedPaths, container.mask),
    ...planReadonlyPaths(container.readonlyPaths),
    ...(process.stdio === null ? planTerminal(process.credentials.uid) : []),
    ...(process.stdio !== null && !container.fds.includes(process.stdio[0]) ? openNull(process.stdio[0]) : []),
    ...planWorkingDir(process.workingDir),
    ...(container.hasReadonlyRoot ? [sealRoot()] : []),
  ];
  return {
    fds: container.fds,
    parent: [...planControlSocket(), ...(typeof container.pid === 'object' ? [joinPid(container.pid.join)] : [])],
    clone: {
      namespaces: user === undefined ? ownNamespaces(container.pid) : 0,
      ...(process.cgroup.version === 2 ? { cgroup: process.cgroup.directory } : {}),
    },
    child: planProcessSetup(process, { entersUser: user !== undefined, enter, prepare }),
    confine: confineMonitor(),
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

/** Only children enter a new pid namespace, so the plan continues in one (`move`). */
function planUser(user: Reg, pid: ContainerPlan['pid']): Op[] {
  const namespaces = ownNamespaces(pid);
  const note = 'create the namespaces of the container';
  return [...joinUser(user), pid === 'new' ? { call: 'move', namespaces, note } : { call: 'unshare', namespaces, note }];
}

/** Joins a pid namespace, which takes effect for children created afterwards: pid_namespaces(7). */
function joinPid(reg: Reg): Op {
  return { call: 'setns', fd: reg, namespaces: CLONE.NEWPID, note: 'join the pid namespace' };
}

function planJoin(namespace: JoinedNamespace): Op {
  return { call: 'setns', fd: namespace.reg, namespaces: namespace.flag, note: `join the ${namespace.what} namespace of the sandbox` };
}

const ownCgroupNamespace: Op = { call: 'unshare', namespaces: CLONE.NEWCGROUP, note: 'create a cgroup namespace' };

function waitForHooks(from: Reg): Op {
  return { call: 'hold', from, note: 'wait for hooks' };
}

function planLinks(links: ContainerPlan['links']): Op[] {
  return links.map(
    ({ mount, name, target }): Op => ({ call: 'symlinkat', target, dir: mount, path: name, note: `create link ${name} to ${target}` }),
  );
}

/** Creates and enters the working directory. Its links are resolved inside the root. */
function planWorkingDir(path: string): Op[] {
  return [...makeInRoot(path, 'directory', 'cwd@'), ...enterWorkingDir('cwd@', normalPath(path))];
}
