/**
 * Opens everything that a container's plan uses from the host, and composes the plan.
 *
 * Runs twice: in CreateContainer, to refuse what can be refused, and in StartContainer.
 */
import { constants, existsSync, openSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { failedPrecondition, unusable } from '../../lib/errors.ts';
import { AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY, openat, programPipe } from '../../sys/call/syscalls.ts';
import { type CgroupFacts, controllerDirectory, type DevicePolicy } from '../../sys/cgroup/cgroup-facts.ts';
import { type CgroupFds, openCgroup } from '../../sys/cgroup/cgroups.ts';
import { makeDirectories } from '../../sys/filesystem/files.ts';
import { cloneTree } from '../../sys/mount/mounts.ts';
import { deviceRules } from '../cgroup/device-rules.ts';
import type { EngineDeps } from '../deps.ts';
import { MOUNT_ATTR, MS } from '../plan/abi.ts';
import { type DeviceNode, deviceMount, standardDevicePaths } from '../plan/devices.ts';
import { rootReg } from '../plan/enter-rootfs.ts';
import { isCovered, normalPath, type RootMount } from '../plan/mounts.ts';
import type { Plan, Reg, Supervise } from '../plan/plan.ts';
import { type ContainerPlan, planContainer, stateReg } from '../plan/plan-container.ts';
import { containerCapabilities, type ProcessFacts, type ProcessFds, planProcess } from '../plan/process-plan.ts';
import type { CgroupEntry } from '../plan/process-setup.ts';
import { type CgroupView, cgroupReg, type StandardMounts, standardMounts, withoutCovered } from '../plan/standard-mounts.ts';
import { volumePath } from '../rootfs/declared-volumes.ts';
import { type ContainerRecord, type ContainerView, containerState, type SandboxView } from '../state/records.ts';
import { allMounts, hasStartHooks, type NamespaceModes } from '../state/spec.ts';
import { findDevices, findEditedNodes, hostDevices } from './host-devices.ts';
import { inspectMaskedPaths } from './inspect-root.ts';
import { type Outer, requireKinds, requireMountPoints } from './mount-targets.ts';
import { openMask, openNullDevice } from './null-device.ts';
import { openPins } from './open-pins.ts';
import { findPlaces, kernelDirectories, type PlacedNode, type Places, placeDefaults, placeNodes } from './places.ts';
import { giveToUser } from './process-streams.ts';
import { createRegisters, type Registers } from './registers.ts';
import { sandboxPaths } from './sandbox-paths.ts';
import { openVolumes } from './volumes.ts';

export type ContainerSources = { readonly plan: Plan; readonly registers: Registers };

/**
 * Opens the sources of a container, and composes its plan.
 *
 * @param root fd of the container's rootfs.
 * @returns the plan and the fds that it names. The caller closes them.
 * @throws {BerthError} naming what cannot be opened. No fd is left open.
 */
export function openContainer(deps: EngineDeps, container: ContainerView, sandbox: SandboxView, root: number): ContainerSources {
  const registers = createRegisters();
  try {
    return { plan: planContainer(composeContainer(deps, container, sandbox, root, registers)), registers };
  } catch (error) {
    registers.closeAll();
    throw error;
  }
}

function composeContainer(deps: EngineDeps, view: ContainerView, sandbox: SandboxView, root: number, registers: Registers): ContainerPlan {
  const { record, status } = view;
  const { spec } = record;
  const { security } = spec;
  registers.add(stateReg, openDirectory(deps.store.containers.directory(record.id)));
  registers.add(rootReg, openSync(`/proc/self/fd/${root}`, O_PATH));
  const { stdio, supervise } = openStdio(deps, record, registers);
  const memoryEvents = openMemoryEvents(deps.cgroups, record.cgroupPath, registers);
  const cgroup = addCgroupEntry(openCgroup(deps.cgroups, record.cgroupPath), registers);
  const cgroupAccess = cgroupAccessOf(record);
  const { isWritable } = cgroupAccess;
  const cgroupView = { ...openCgroupView(deps.cgroups, record.cgroupPath, cgroupAccess.showsHost, registers), isWritable };
  const facts = processFacts(deps);
  const seccomp = deps.seccomp.filterFor(security, containerCapabilities(record, facts).effective);
  const { pins } = sandboxPaths(deps, sandbox.record);
  const process = planProcess(record, sandbox.record.spec, facts, { cgroup, stdio }, { resources: status.resources, seccomp });
  const pid = openPidNamespace(deps, record, sandbox, registers);
  const { places, has, hasOwnNull, ...contents } = openContents(deps, view, sandbox, { root, cgroupView, registers });
  if (stdio !== null && !spec.hasStdin && !hasOwnNull) registers.add('stdin', openNullDevice(O_RDONLY));
  return {
    ...openPins(pins, registers),
    ...contents,
    pid,
    hasOwnCgroupNamespace: cgroupAccess.hasOwnNamespace,
    hasStandardDev: has('/dev'),
    hasStandardSys: has('/sys'),
    links: cgroupView.version === 1 && has('/sys/fs/cgroup') ? cgroupView.links.map((link) => ({ mount: cgroupReg, ...link })) : [],
    maskedPaths: security.isPrivileged ? [] : inspectMaskedPaths(root, security.maskedPaths.map(normalPath)),
    mask: registers.add('mask', openMask()),
    readonlyPaths: security.isPrivileged ? [] : security.readonlyPaths.map(normalPath),
    hasReadonlyRoot: security.hasReadonlyRootfs,
    process: { ...process, workingDir: places.of(process.workingDir) },
    ...openHold(record, registers),
    supervise: { ...supervise, ...(memoryEvents === undefined ? {} : { memoryEvents }) },
    fds: registers.names,
  };
}

type Contents = Pick<ContainerPlan, 'mounts' | 'devices'> & {
  readonly places: Places;
  /** Whether there is a default mount with this target. */
  readonly has: (target: string) => boolean;
  /** Whether the container opens its own /dev/null: a volume or a requested device there may be another file. */
  readonly hasOwnNull: boolean;
};

/** Opens everything that is mounted in the root, and decides where. */
function openContents(
  deps: EngineDeps,
  { record, status }: ContainerView,
  sandbox: SandboxView,
  { root, cgroupView, registers }: { readonly root: number; readonly cgroupView: CgroupView; readonly registers: Registers },
): Contents {
  const { spec } = record;
  const { security } = spec;
  const isNew = containerState(status) === 'creating';
  const { rootDir, stateDir } = deps.settings;
  const { pins, shm } = sandboxPaths(deps, sandbox.record);
  const volumeFacts = {
    ...deps.facts,
    makesMissing: isNew,
    ownDirs: [rootDir, stateDir],
    shelf: deps.rootfs.shelf,
    ...(pins.user ? { userNamespace: pins.user } : {}),
  };
  const requested = openVolumes(volumeFacts, allMounts(spec, sandbox.record.spec.namespaces.user), registers);
  const places = findPlaces(root, requested, ({ source }) => registers.fdOf(source.kind === 'inherited' ? source.reg : ''));
  const { volumes } = places;
  const defaults = standardMounts({
    isPrivileged: security.isPrivileged,
    hasReadonlyRoot: security.hasReadonlyRootfs,
    cgroups: cgroupView,
    shm: registers.add('shm', cloneTree(shm, { isRecursive: false })),
    fromHost: pins.user === undefined ? {} : openHostMounts(security.namespaces, registers),
    files: openSandboxFiles(deps, sandbox, registers),
  });
  const standard = withoutCovered(
    placeDefaults(places, defaults, requested),
    volumes.map((volume) => volume.target),
  );
  const has = (target: string) => standard.some((mount) => mount.target === target);
  const found = containerDevices(record);
  const nodes = placeNodes(places, found.all, found.requested);
  const mountsDevices = pins.user !== undefined;
  const mounted = [...(mountsDevices ? nodes.own.filter(isMounted) : []), ...nodes.inVolumes];
  const mounts = [...standard, ...openDevices(mounted, mountsDevices && has('/dev'), registers), ...volumes];
  const declared = openDeclared(deps, record, places, mounts, registers);
  const expected = [...mounts.filter((mount) => !mount.replacesLink), ...declared];
  if (isNew) {
    requireKinds(root, expected, pointsOf(mounts));
    requireMountPoints(outerMounts([...declared, ...mounts], registers));
  }
  const devices = nodes.own.filter((node) => !(mountsDevices && isMounted(node)));
  const replaced = [...volumes.map((volume) => volume.target), ...nodes.own.map((node) => node.path)];
  return { places, has, hasOwnNull: has('/dev') && !replaced.includes('/dev/null'), mounts: [...declared, ...mounts], devices };
}

function outerMounts(mounts: readonly RootMount[], registers: Registers): Outer[] {
  return mounts.map(({ target, isDirectory, source, attributes }) => ({
    target,
    isDirectory,
    isReadonly: (attributes & MOUNT_ATTR.RDONLY) !== 0,
    ...(source.kind === 'inherited' ? { fd: registers.fdOf(source.reg) } : {}),
  }));
}

const pointsOf = (mounts: readonly RootMount[]): ReadonlySet<string> => new Set(mounts.map((mount) => normalPath(mount.target)));

/**
 * Opens the volumes that the image declares. A mount replaces what is declared at and below its target; mounts below a declared volume are attached in
 * it. It begins with the image's files, so it is no mount point for the resolution of links.
 */
function openDeclared(
  { rootfs }: EngineDeps,
  { id, image }: ContainerRecord,
  places: Places,
  mounts: readonly RootMount[],
  registers: Registers,
): RootMount[] {
  const targets = [...mounts.map((mount) => mount.target), ...kernelDirectories];
  return image.config.volumes.flatMap((path, i): RootMount[] => {
    const target = places.of(path);
    const directory = volumePath(rootfs.volumesDir(id), i);
    if (target === '/' || isCovered(target, targets) || !existsSync(directory)) return [];
    const reg = registers.add(`declared${i}`, cloneTree(directory, { isRecursive: false }));
    return [{ target, isDirectory: true, source: { kind: 'inherited', reg }, attributes: 0, isRecursive: false, propagation: MS.PRIVATE }];
  });
}

/** Returns whether a node is a bind mount in a user namespace, where FIFOs can be created, but device nodes cannot. */
const isMounted = (node: DeviceNode): boolean => node.type !== 'fifo';

/** Write end of the pipe that resumes a held plan. */
export const goReg: Reg = 'go.write';

function openHold({ spec }: ContainerRecord, registers: Registers): Pick<ContainerPlan, 'hold'> {
  if (!hasStartHooks(spec)) return {};
  const [read, write] = programPipe();
  registers.add(goReg, write);
  return { hold: registers.add('go', read) };
}

export function processFacts(deps: EngineDeps): ProcessFacts {
  const { capabilities, oomScoreAdj, hostname } = deps.facts;
  return { capabilities, oomScoreAdj, hostname, rlimits: deps.settings.rlimits };
}

function openDirectory(path: string): number {
  return openat(AT_FDCWD, path, O_PATH | O_DIRECTORY);
}

type Stdio = { readonly stdio: ProcessFds['stdio']; readonly supervise: Extract<Supervise, { mode: 'container' }> };

function openStdio(deps: EngineDeps, record: ContainerRecord, registers: Registers): Stdio {
  const { spec } = record;
  const log = openLog(deps, spec.logPath, registers);
  const base = { mode: 'container', exitDir: stateReg, ...(log ? { log } : {}) } as const;
  if (spec.hasTerminal) return { stdio: null, supervise: { ...base, hasTerminal: true } };
  const pipeOf = (reader: Reg, writer: Reg): void => {
    const [read, write] = programPipe();
    // Both ends have the same owner: they are one inode.
    giveToUser(record, [read]);
    registers.add(reader, read);
    registers.add(writer, write);
  };
  pipeOf('stdout.read', 'stdout');
  pipeOf('stderr.read', 'stderr');
  if (spec.hasStdin) pipeOf('stdin', 'stdin.write');
  return {
    stdio: ['stdin', 'stdout', 'stderr'],
    supervise: { ...base, hasTerminal: false, stdout: 'stdout.read', stderr: 'stderr.read', ...(spec.hasStdin ? { stdin: 'stdin.write' } : {}) },
  };
}

function openLog(deps: EngineDeps, path: string | undefined, registers: Registers): Extract<Supervise, { mode: 'container' }>['log'] {
  if (path === undefined) return undefined;
  try {
    makeDirectories(dirname(path), 0o755);
    const dir = registers.add('logs', openDirectory(dirname(path)));
    return { dir, name: basename(path), lineBytesMax: deps.settings.maxContainerLogLineSize };
  } catch (error) {
    throw unusable(`open the log directory ${dirname(path)}`, error);
  }
}

/** Adds the fds by which a process enters a cgroup (from openCgroup() or openProcessCgroup()) as registers. */
export function addCgroupEntry(fds: CgroupFds, registers: Registers): CgroupEntry {
  if (fds.version === 2) return { version: 2, directory: registers.add('cgroup', fds.directoryFd) };
  return { version: 1, procs: fds.procsFds.map((fd, i) => registers.add(`cgroup${i}`, fd)) };
}

/** Opens memory.events on v2, where systemd may remove the cgroup first. On v1 nothing else removes it. */
function openMemoryEvents(facts: CgroupFacts, path: string, registers: Registers): Reg | undefined {
  const file = facts.version === 2 ? `${controllerDirectory(facts, path, 'memory')}/memory.events` : undefined;
  return file !== undefined && existsSync(file) ? registers.add('memory.events', openSync(file, constants.O_RDONLY)) : undefined;
}

/**
 * Returns what a container sees of the cgroups, and whether it may change it. Privileged containers see and change those of the node by default; in a user
 * namespace they have a cgroup namespace nevertheless, because the kernel does not allow a mount of the host's there.
 */
function cgroupAccessOf({ spec: { security } }: Pick<ContainerRecord, 'spec'>): {
  hasOwnNamespace: boolean;
  showsHost: boolean;
  isWritable: boolean;
} {
  const { isPrivileged, namespaces, cgroups = {} } = security;
  const isOfNode = cgroups.namespace === 'node';
  return {
    hasOwnNamespace: cgroups.namespace === undefined ? !isPrivileged || namespaces.user !== undefined : !isOfNode,
    showsHost: cgroups.namespace === undefined ? isPrivileged : isOfNode,
    isWritable: cgroups.isWritable ?? isPrivileged,
  };
}

/**
 * Opens what the container sees below /sys/fs/cgroup. On v1 its part of each hierarchy is bind-mounted. A privileged container sees the same part,
 * writable: nothing needs the rest, and the root of a v1 hierarchy has `release_agent`, a program that the kernel runs on the host. On v2 it sees the
 * whole hierarchy, for programs that manage the node. Both as in containerd 2.4.2 with runc.
 */
function openCgroupView(facts: CgroupFacts, path: string, showsHost: boolean, registers: Registers): CgroupView {
  if (facts.version === 2)
    return showsHost ? { version: 2, host: registers.add('cgroups.host', cloneTree(facts.root, { isRecursive: false })) } : { version: 2 };
  const points = new Set(facts.mounts.values());
  const hierarchies = [...points].map((point) => ({
    name: basename(point),
    reg: registers.add(`cgroup.${basename(point)}`, cloneTree(`${point}${path}`, { isRecursive: false })),
  }));
  const links = [...facts.mounts]
    .filter(([controller, point]) => !controller.includes('=') && basename(point) !== controller)
    .map(([controller, point]) => ({ name: controller, target: basename(point) }));
  return { version: 1, hierarchies, links };
}

function openSandboxFiles(deps: EngineDeps, sandbox: SandboxView, registers: Registers): { path: string; reg: Reg }[] {
  const paths = sandboxPaths(deps, sandbox.record);
  return (['hostname', 'hosts', 'resolv.conf'] as const).map((name) => ({
    path: `/etc/${name}`,
    reg: registers.add(name, cloneTree(join(paths.directory, name), { isRecursive: false })),
  }));
}

/** Clones mounts that a user namespace must not create for namespaces of the host. */
function openHostMounts({ network, pid, ipc }: NamespaceModes, registers: Registers): NonNullable<StandardMounts['fromHost']> {
  const clone = (path: string) => registers.add(`host${path}`, cloneTree(path, { isRecursive: true }));
  return {
    ...(pid === 'node' ? { proc: clone('/proc') } : {}),
    ...(network === 'node' ? { sys: clone('/sys') } : {}),
    ...(ipc === 'node' ? { mqueue: existsSync('/dev/mqueue') ? clone('/dev/mqueue') : null } : {}),
  };
}

/** Opens devices as bind mounts of the host's nodes. @param hasStandard whether the devices of a default /dev are included. */
function openDevices(nodes: readonly PlacedNode[], hasStandard: boolean, registers: Registers): RootMount[] {
  const standard = hasStandard ? standardDevicePaths.map((path) => ({ path, hostPath: path, isLink: false })) : [];
  return [...standard, ...nodes].map(({ path, hostPath, isLink }, i) => {
    if (!existsSync(hostPath)) throw failedPrecondition(`device ${hostPath} does not exist on the host, and cannot be created in a user namespace`);
    return deviceMount(path, registers.add(`device${i}`, cloneTree(hostPath, { isRecursive: false })), isLink);
  });
}

function openPidNamespace(deps: EngineDeps, record: ContainerRecord, sandbox: SandboxView, registers: Registers): ContainerPlan['pid'] {
  const { pid, targetId } = record.spec.security.namespaces;
  if (pid === 'container') return 'new';
  if (pid === 'node') return 'host';
  const owner = pid === 'pod' ? sandbox.status.reaper?.pid : targetPid(deps, record, targetId);
  if (owner === undefined) throw failedPrecondition(`join the pod's pid namespace: sandbox ${sandbox.record.id} has none`);
  return { join: registers.add('pid', openSync(`/proc/${owner}/ns/pid`, constants.O_RDONLY)) };
}

function targetPid(deps: EngineDeps, record: ContainerRecord, targetId: string | undefined): number {
  const target = targetId === undefined ? undefined : deps.store.containers.get(targetId);
  if (target === undefined || target.record.sandboxId !== record.sandboxId) {
    throw failedPrecondition(`join the pid namespace of container ${targetId}: no such container in this sandbox`);
  }
  if (containerState(target.status) !== 'running' || target.status.process === undefined) {
    throw failedPrecondition(`join the pid namespace of container ${targetId}: the container is not running`);
  }
  return target.status.process.pid;
}

/**
 * Returns a container's device nodes and its device cgroup policy: `requested` ones, and `all` of the host's for a privileged container.
 *
 * @throws {BerthError} for a missing device.
 */
export function containerDevices(record: ContainerRecord): {
  requested: readonly DeviceNode[];
  all: readonly DeviceNode[];
  policy: DevicePolicy;
} {
  const { spec, identity } = record;
  const { isPrivileged } = spec.security;
  const found = findDevices(spec.devices);
  const edited = findEditedNodes(spec.edits?.nodes ?? [], { uid: identity.uid, gid: identity.gid });
  const policy = deviceRules({ isPrivileged, requested: [...found.rules, ...edited.rules] });
  return { requested: [...found.nodes, ...edited.nodes], all: isPrivileged ? hostDevices() : [], policy };
}
