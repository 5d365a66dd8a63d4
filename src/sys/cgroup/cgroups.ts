/**
 * Finds, creates, opens and removes cgroups, and restricts their devices; cgroup v1 and v2.
 *
 * Paths are relative to the root of the hierarchies, as the kubelet sends them. Values are in cgroup-values.ts, processes in cgroup-processes.ts.
 */
import { chownSync, closeSync, constants, existsSync, openSync, readFileSync, rmdirSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { failedPrecondition, internal } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { parseMountInfo } from '../call/proc.ts';
import { unmount } from '../mount/mounts.ts';
import { setDeviceProgram } from './bpf.ts';
import {
  type CgroupFacts,
  type CgroupMounts,
  type CgroupV1Facts,
  type CgroupV2Facts,
  cgroupDirectories,
  controllerDirectory,
  type DevicePolicy,
  findCgroupMounts,
  hasNsDelegate,
  hugepageSizeOf,
  mountPointsOf,
  unifiedDirectory,
} from './cgroup-facts.ts';
import {
  checkPath,
  childrenOf,
  directoriesFrom,
  isWritable,
  kernelReason,
  makeDirectory,
  namesIn,
  readOrEmpty,
  readText,
  words,
  writeFile,
} from './cgroup-files.ts';

/** How long a cgroup may stay busy after its last process has ended: the kernel drops references asynchronously. */
const removeTimeoutMs = 2_000;

const createAttemptsMax = 3;

/** @throws {BerthError} FAILED_PRECONDITION if no cgroup file system is mounted, with the fix. */
export function probeCgroups(): CgroupFacts {
  const mountInfo = readFileSync('/proc/self/mountinfo', 'utf8');
  const found = findCgroupMounts(mountInfo);
  if (found === null) {
    throw failedPrecondition('no cgroup file system is mounted; run mount -t cgroup2 cgroup2 /sys/fs/cgroup');
  }
  const hugepageSizes = namesIn('/sys/kernel/mm/hugepages').flatMap((name) => hugepageSizeOf(name) ?? []);
  return found.version === 1 ? probeV1(found, hugepageSizes) : probeV2(found.root, hasNsDelegate(mountInfo), hugepageSizes);
}

function probeV1(found: Extract<CgroupMounts, { version: 1 }>, hugepageSizes: string[]): CgroupFacts {
  // A read-only hierarchy belongs to another program and is not used.
  const mounts = new Map([...found.mounts].filter(([, mount]) => isWritable(mount)));
  const memory = mounts.get('memory');
  return {
    version: 1,
    mounts,
    unifiedRoot: found.unifiedRoot !== null && isWritable(found.unifiedRoot) ? found.unifiedRoot : null,
    controllers: new Set([...mounts.keys()].filter((name) => !name.startsWith('name='))),
    hasSwapAccounting: memory !== undefined && existsSync(join(memory, 'memory.memsw.limit_in_bytes')),
    hugepageSizes,
  };
}

function probeV2(root: string, isDelegated: boolean, hugepageSizes: string[]): CgroupFacts {
  // The root has no limit files, so look in any cgroup with a memory controller.
  const limited = [join(root, v2PathOf('self') ?? '/'), ...namesIn(root).map((name) => join(root, name))].find((directory) =>
    existsSync(join(directory, 'memory.max')),
  );
  return {
    version: 2,
    root,
    hasNsDelegate: isDelegated,
    controllers: new Set(words(readFileSync(join(root, 'cgroup.controllers'), 'utf8'))),
    hasSwapAccounting: limited === undefined || existsSync(join(limited, 'memory.swap.max')),
    hugepageSizes,
  };
}

/**
 * Lets a user create cgroups below a cgroup v2, and move processes between them; its limits stay the node's.
 *
 * The kernel lists the files in /sys/kernel/cgroup/delegate: Documentation/admin-guide/cgroup-v2.rst, Model of Delegation.
 */
export function delegateCgroup(facts: CgroupFacts, path: string, { uid, gid }: { readonly uid: number; readonly gid: number }): void {
  checkPath(path);
  const files = words(readOrEmpty('/sys/kernel/cgroup/delegate'));
  for (const directory of cgroupDirectories(facts, path)) {
    chownSync(directory, uid, gid);
    for (const file of files) if (existsSync(join(directory, file))) chownSync(join(directory, file), uid, gid);
  }
}

/** Returns the path of a process in the unified hierarchy, proc_pid_cgroup(5); null if the process does not exist. */
const v2PathOf = (pid: number | 'self'): string | null => /^0::(.*)$/m.exec(readOrEmpty(`/proc/${pid}/cgroup`))?.[1] ?? null;

/**
 * Creates a cgroup and its missing ancestors, in every hierarchy. An existing cgroup is left unchanged.
 *
 * v1: cpuset.cpus and cpuset.mems are copied along the path, because no process can enter before they are set.
 * v2: all controllers are enabled for the children of each ancestor, but not of the cgroup itself, which will contain processes.
 *
 * @throws {BerthError} INTERNAL; the cgroup itself is then removed.
 */
export function createCgroup(facts: CgroupFacts, path: string): void {
  checkPath(path);
  for (let attempt = 1; ; attempt++) {
    try {
      const components = path.slice(1).split('/');
      if (facts.version === 1) createV1(facts, components);
      else createV2(facts, components);
      return;
    } catch (error) {
      removeIfEmpty(facts, path);
      // Another daemon may have removed the still empty parent between two steps.
      if (attempt === createAttemptsMax || !isErrno(error, 'ENOENT', 'ENODEV'))
        throw internal(`create cgroup ${path}: ${kernelReason(error)}`, error);
    }
  }
}

function createV1(facts: CgroupV1Facts, components: readonly string[]): void {
  const cpusetRoot = controllerDirectory(facts, '', 'cpuset');
  const memoryRoot = controllerDirectory(facts, '', 'memory');
  for (const root of cgroupDirectories(facts, '')) {
    let directory = root;
    for (const component of components) {
      const parent = directory;
      directory = `${directory}/${component}`;
      const isNew = makeDirectory(directory);
      if (root === cpusetRoot) for (const file of ['cpuset.cpus', 'cpuset.mems']) inheritCpuset(parent, directory, file);
      if (root === memoryRoot && isNew) useMemoryHierarchy(directory);
    }
  }
}

function inheritCpuset(parent: string, directory: string, file: string): void {
  if (readText(`${directory}/${file}`) === '') writeFile(`${directory}/${file}`, readText(`${parent}/${file}`));
}

/** Before Linux 5.11, a child's memory counts for its parent only if this is set; since then always. */
function useMemoryHierarchy(directory: string): void {
  const file = `${directory}/memory.use_hierarchy`;
  if (existsSync(file) && readText(file) === '0') writeFile(file, '1');
}

function createV2(facts: CgroupV2Facts, components: readonly string[]): void {
  let [directory = ''] = cgroupDirectories(facts, '');
  for (const component of components) {
    enableControllers(directory);
    directory = `${directory}/${component}`;
    makeDirectory(directory);
  }
}

/**
 * Enables all available controllers for the children. Controllers that cannot be enabled are skipped; writing a limit that needs one fails later.
 *
 * Enables one by one only if the kernel rejects one of them with EINVAL (`cpu` with real-time tasks). In a cgroup with processes (EBUSY) none is
 * enabled: the kernel would accept the threaded controllers, and descendants could then not contain processes (`domain invalid`).
 */
function enableControllers(directory: string): void {
  const file = `${directory}/cgroup.subtree_control`;
  const enabled = words(readText(file));
  const missing = words(readText(`${directory}/cgroup.controllers`)).filter((controller) => !enabled.includes(controller));
  if (missing.length === 0) return;
  if (enableInOneWrite(file, missing) !== 'EINVAL') return;
  for (const controller of missing) enableInOneWrite(file, [controller]);
}

/** @returns null, or the name of the errno. */
function enableInOneWrite(file: string, controllers: readonly string[]): string | null {
  try {
    writeFile(file, controllers.map((controller) => `+${controller}`).join(' '));
    return null;
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}

/** Returns the file for block I/O weights: that of bfq if it is loaded. The root has neither file, so its children are checked. v1 has only that of bfq. */
export function ioWeightFile(facts: CgroupFacts): 'io.bfq.weight' | 'io.weight' {
  if (facts.version === 1) return 'io.bfq.weight';
  const root = unifiedDirectory(facts, '');
  const anyHas = root !== null && childrenOf(root).some((name) => existsSync(`${root}/${name}/io.bfq.weight`));
  return anyHas ? 'io.bfq.weight' : 'io.weight';
}

/** Restricts the devices of a cgroup that has no children yet. @throws {BerthError} INTERNAL. */
export function setDevices(facts: CgroupFacts, path: string, policy: DevicePolicy): void {
  checkPath(path);
  try {
    const unified = facts.version === 2 ? unifiedDirectory(facts, path) : null;
    if (unified !== null) setDeviceProgram(unified, policy.kind === 'all' ? null : policy.v2Program);
    else if (policy.kind === 'listed') setDevicesV1(facts, path, policy.v1Allows);
    // v1, all: a new cgroup inherits its parent's devices.
  } catch (error) {
    throw internal(`set the device rules of cgroup ${path}: ${kernelReason(error)}`, error);
  }
}

function setDevicesV1(facts: CgroupFacts, path: string, allows: readonly string[]): void {
  const directory = controllerDirectory(facts, path, 'devices');
  if (directory === null) throw failedPrecondition('the node has no cgroup controller devices');
  writeFile(`${directory}/devices.deny`, 'a');
  const fd = openSync(`${directory}/devices.allow`, constants.O_WRONLY);
  try {
    for (const line of allows) writeSync(fd, line);
  } finally {
    closeSync(fd);
  }
}

/** Returns the paths of all cgroups with this name. Walks the whole hierarchy; for callers that have lost the path. */
export async function findCgroups(facts: CgroupFacts, name: string): Promise<readonly string[]> {
  const paths = new Set<string>();
  for (const root of cgroupDirectories(facts, '')) {
    for await (const directory of directoriesFrom(root)) if (basename(directory) === name) paths.add(directory.slice(root.length));
  }
  return [...paths];
}

/** The fds with which a new process is started in a cgroup. They are close-on-exec; the caller closes them. */
export type CgroupFds =
  /** cgroup.procs of every hierarchy: the process writes `0` to each. */
  | { readonly version: 1; readonly procsFds: readonly number[] }
  /** The directory, for clone3(2) with CLONE_INTO_CGROUP. */
  | { readonly version: 2; readonly directoryFd: number };

/** @throws {BerthError} INTERNAL, also if the cgroup does not exist. */
export function openCgroup(facts: CgroupFacts, path: string): CgroupFds {
  checkPath(path);
  const procsFds: number[] = [];
  try {
    if (facts.version === 2)
      return { version: 2, directoryFd: openSync(cgroupDirectories(facts, path)[0] as string, constants.O_RDONLY | constants.O_DIRECTORY) };
    for (const directory of cgroupDirectories(facts, path)) procsFds.push(openSync(`${directory}/cgroup.procs`, constants.O_WRONLY));
    return { version: 1, procsFds };
  } catch (error) {
    for (const fd of procsFds) closeSync(fd);
    throw internal(`open cgroup ${path}: ${kernelReason(error)}`, error);
  }
}

/**
 * Like openCgroup(), for a process that joins a running container, such as an exec. A container that manages cgroups itself (with systemd) may have moved
 * its processes to child cgroups. On v2 its own cgroup then accepts no processes, so the new process starts in the cgroup of `pid`, if that is below `path`.
 *
 * @throws {BerthError} like openCgroup().
 */
export function openProcessCgroup(facts: CgroupFacts, path: string, pid: number): CgroupFds {
  checkPath(path);
  const current = facts.version === 2 ? (v2PathOf(pid) ?? path) : path;
  // A path that ends in ` (deleted)` or leads out of the root is not below `path`.
  return openCgroup(facts, current.startsWith(`${path}/`) && existsSync(`${cgroupDirectories(facts, current)[0]}/cgroup.procs`) ? current : path);
}

/**
 * Removes a cgroup and its descendants in every hierarchy. Its processes must have ended (killCgroup()). Succeeds if it does not exist.
 *
 * @throws {BerthError} INTERNAL if it stays busy.
 */
export async function removeCgroup(facts: CgroupFacts, path: string, timeoutMs = removeTimeoutMs): Promise<void> {
  checkPath(path);
  const deadline = performance.now() + timeoutMs;
  let remaining = cgroupDirectories(facts, path);
  for (let waitMs = 1; ; waitMs = Math.min(2 * waitMs, 50)) {
    const busy: string[] = [];
    for (const directory of remaining) if (!(await removeTree(directory))) busy.push(directory);
    if (busy.length === 0) return;
    uncover(facts, path);
    if (performance.now() >= deadline) throw internal(`remove cgroup ${path}: it is still busy (EBUSY)${pidsIn(busy)}`);
    remaining = busy;
    await sleep(waitMs);
  }
}

/** Unmounts what a container has mounted over its cgroup, if that has reached this mount namespace: rmdir(2) fails on a mount point. */
function uncover(facts: CgroupFacts, path: string): void {
  const directories = mountPointsOf(facts).map((mountPoint) => mountPoint + path);
  const covers = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).filter(({ mountPoint }) =>
    directories.some((directory) => `${mountPoint}/`.startsWith(`${directory}/`)),
  );
  // The last is on top.
  for (const { mountPoint } of covers.reverse()) unmount(mountPoint);
}

/** @returns false if a cgroup in the tree is busy. */
async function removeTree(directory: string): Promise<boolean> {
  if (removeDirectory(directory)) return true;
  // A container can create many cgroups: yield to the event loop between two.
  await sleep(0);
  for (const name of childrenOf(directory)) await removeTree(`${directory}/${name}`);
  return removeDirectory(directory);
}

function removeDirectory(directory: string): boolean {
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return true;
    if (isErrno(error, 'EBUSY', 'ENOTEMPTY')) return false;
    throw internal(`remove cgroup ${directory}: ${kernelReason(error)}`, error);
  }
}

function pidsIn(directories: readonly string[]): string {
  const pids = directories.flatMap((directory) => words(readOrEmpty(`${directory}/cgroup.procs`)));
  return pids.length === 0 ? '' : `, processes ${[...new Set(pids)].join(' ')}`;
}

/** Removes a cgroup that has neither processes nor children, such as a parent that berth created. Otherwise leaves it. */
export function removeIfEmpty(facts: CgroupFacts, path: string): void {
  checkPath(path);
  for (const directory of cgroupDirectories(facts, path)) {
    try {
      rmdirSync(directory);
    } catch {
      // In use, or does not exist.
    }
  }
}
