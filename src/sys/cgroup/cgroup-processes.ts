/**
 * The processes of a cgroup and of all cgroups below it: listed, frozen, killed. Every wait has an end.
 */
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { failedPrecondition, internal } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../call/syscalls.ts';
import { type CgroupFacts, cgroupDirectories, controllerDirectory } from './cgroup-facts.ts';
import { checkPath, directoriesFrom, kernelReason, readText, words, writeFile } from './cgroup-files.ts';
import { createCgroup } from './cgroups.ts';

/** Longest pause between two looks at what is left. */
const pauseMsMax = 50;
const enterAttemptsMax = 3;
/** Open at a time: well below the limit of open files, however many processes a container has. */
const pidfdsMax = 256;

/**
 * Pids of the processes in the cgroup and below it, in any hierarchy; none when there is no such cgroup.
 * A process that this pid namespace cannot see counts as 0.
 */
export async function processes(facts: CgroupFacts, path: string): Promise<number[]> {
  checkPath(path);
  const pids = new Set<number>();
  for (const top of cgroupDirectories(facts, path)) {
    for await (const directory of directoriesFrom(top)) for (const pid of pidsOf(directory)) pids.add(pid);
  }
  return [...pids];
}

function pidsOf(directory: string): number[] {
  try {
    return words(readText(`${directory}/cgroup.procs`)).map(Number);
  } catch (error) {
    // Removed meanwhile; EOPNOTSUPP: a threaded cgroup, whose processes its parent lists.
    if (isErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP')) return [];
    throw internal(`listing the processes of cgroup ${directory}: ${kernelReason(error)}`, error);
  }
}

/**
 * Moves a process into a cgroup, which is made when it is not there: with its last process a service manager may have removed it at any moment.
 *
 * @returns whether it was made now.
 * @throws {BerthError} INTERNAL.
 */
export function enterCgroup(facts: CgroupFacts, path: string, pid: number): boolean {
  for (let attempt = 1; ; attempt++) {
    const directories = cgroupDirectories(facts, path);
    const isNew = !directories.every((directory) => existsSync(directory));
    if (isNew) createCgroup(facts, path);
    try {
      for (const directory of directories) writeFile(`${directory}/cgroup.procs`, String(pid));
      return isNew;
    } catch (error) {
      // It has ended: there is nothing to move.
      if (isErrno(error, 'ESRCH')) return isNew;
      if (attempt === enterAttemptsMax || !isErrno(error, 'ENOENT', 'ENODEV'))
        throw internal(`moving process ${pid} into cgroup ${path}: ${kernelReason(error)}`, error);
    }
  }
}

/**
 * Kills all processes of the cgroup and of those below it, forking ones included, and waits until they are gone. A frozen cgroup is thawed.
 *
 * @returns the pids that remain after `timeoutMs`: in the kernel, uninterruptible. Empty: nothing lives in it.
 */
export async function killCgroup(facts: CgroupFacts, path: string, timeoutMs: number): Promise<readonly number[]> {
  checkPath(path);
  const deadline = performance.now() + timeoutMs;
  let isKernelAble = killByKernel(facts, path);
  for (let pauseMs = 1; ; pauseMs = Math.min(2 * pauseMs, pauseMsMax)) {
    // After the kernel's kill the first look may see processes that are just ending.
    if (!isKernelAble) await killFrozen(facts, path);
    const left = await processes(facts, path);
    if (left.length === 0 || performance.now() >= deadline) return left;
    await sleep(pauseMs);
    isKernelAble = pauseMs === 1 && isKernelAble;
  }
}

/** cgroup.kill (Linux 5.14) reaches all below at once, also what forks meanwhile. @returns false where there is none. */
function killByKernel(facts: CgroupFacts, path: string): boolean {
  const root = facts.version === 2 ? facts.root : facts.unifiedRoot;
  if (root === null || !existsSync(`${root}${path}/cgroup.kill`)) return false;
  try {
    writeFile(`${root}${path}/cgroup.kill`, '1');
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENODEV')) throw internal(`killing cgroup ${path}: ${kernelReason(error)}`, error);
  }
  // A signal reaches a process in the v1 freezer only when that lets go.
  if (facts.version === 1) setFrozen(facts, path, false);
  return true;
}

/** Frozen processes fork no others, so one pass gets them all. */
async function killFrozen(facts: CgroupFacts, path: string): Promise<void> {
  setFrozen(facts, path, true);
  try {
    const pids = (await processes(facts, path)).filter((pid) => pid !== 0);
    for (let start = 0; start < pids.length; start += pidfdsMax) await killThose(facts, path, pids.slice(start, start + pidfdsMax));
  } finally {
    setFrozen(facts, path, false);
  }
}

/** By pidfd, and only what is still listed after it is open: the number may by then have been another process's. */
async function killThose(facts: CgroupFacts, path: string, pids: readonly number[]): Promise<void> {
  const pidfds = new Map<number, number>();
  try {
    for (const pid of pids) {
      const pidfd = openIfAlive(pid);
      if (pidfd !== null) pidfds.set(pid, pidfd);
    }
    for (const pid of await processes(facts, path)) {
      const pidfd = pidfds.get(pid);
      if (pidfd !== undefined) signalIfAlive(pidfd);
    }
  } finally {
    for (const pidfd of pidfds.values()) close(pidfd);
  }
}

function openIfAlive(pid: number): number | null {
  try {
    return pidfdOpen(pid);
  } catch (error) {
    if (isErrno(error, 'ESRCH', 'EINVAL')) return null;
    throw error;
  }
}

function signalIfAlive(pidfd: number): void {
  try {
    pidfdSendSignal(pidfd, constants.signals.SIGKILL);
  } catch (error) {
    if (!isErrno(error, 'ESRCH')) throw error;
  }
}

/** @returns false when there is no freezer, or no such cgroup. */
function setFrozen(facts: CgroupFacts, path: string, isFrozen: boolean): boolean {
  const file = facts.version === 2 ? `${facts.root}${path}/cgroup.freeze` : `${controllerDirectory(facts, path, 'freezer')}/freezer.state`;
  const [stop, go] = facts.version === 2 ? ['1', '0'] : ['FROZEN', 'THAWED'];
  try {
    writeFile(file, isFrozen ? stop : go);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return false;
    throw internal(`writing to ${file}: ${kernelReason(error)}`, error);
  }
}

/**
 * Stops all processes of the cgroup and of those below it where they are.
 *
 * @throws {BerthError} INTERNAL when some do not stop within `timeoutMs`; all run on then. FAILED_PRECONDITION without a freezer.
 */
export async function freeze(facts: CgroupFacts, path: string, timeoutMs: number): Promise<void> {
  checkPath(path);
  const deadline = performance.now() + timeoutMs;
  if (!setFrozen(facts, path, true)) throw failedPrecondition(`freezing cgroup ${path}: it does not exist, or the node has no freezer`);
  for (let pauseMs = 1; !isFrozen(facts, path); pauseMs = Math.min(2 * pauseMs, pauseMsMax)) {
    if (performance.now() >= deadline) {
      setFrozen(facts, path, false);
      throw internal(`freezing cgroup ${path}: not all of its processes stopped within ${timeoutMs} ms`);
    }
    await sleep(pauseMs);
    // v1 tells each process once, and one may miss it: kernel/cgroup/legacy_freezer.c, freeze_cgroup().
    if (facts.version === 1) setFrozen(facts, path, true);
  }
}

/** Where the freezer of the cgroup is. @throws {BerthError} FAILED_PRECONDITION without one. */
export function freezerDirectory(facts: CgroupFacts, path: string): string {
  checkPath(path);
  const directory = facts.version === 2 ? `${facts.root}${path}` : controllerDirectory(facts, path, 'freezer');
  if (directory === null) throw failedPrecondition(`freezing cgroup ${path}: the node has no freezer`);
  return directory;
}

function isFrozen(facts: CgroupFacts, path: string): boolean {
  if (facts.version === 2) return /^frozen 1$/m.test(readText(`${facts.root}${path}/cgroup.events`));
  // v1: reading also makes the kernel look whether the last process has stopped.
  return readText(`${controllerDirectory(facts, path, 'freezer')}/freezer.state`) === 'FROZEN';
}

/** Lets the processes of a frozen cgroup run on; succeeds when it is not frozen, or gone. */
export function thaw(facts: CgroupFacts, path: string): void {
  checkPath(path);
  setFrozen(facts, path, false);
}
