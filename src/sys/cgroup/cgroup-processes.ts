/**
 * Lists, freezes and kills the processes of a cgroup and its descendants. Every wait has a timeout.
 */
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { failedPrecondition, internal } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { close, pidfdOpen, pidfdSendSignal } from '../call/syscalls.ts';
import { type CgroupFacts, cgroupDirectories, controllerDirectory, unifiedDirectory } from './cgroup-facts.ts';
import { checkPath, directoriesFrom, kernelReason, readText, words, writeFile } from './cgroup-files.ts';
import { createCgroup } from './cgroups.ts';

/** Longest pause between two checks. */
const pauseMsMax = 50;
const enterAttemptsMax = 3;
/** Open at the same time: well below the limit of open files, independent of the number of processes. */
const pidfdsMax = 256;

/**
 * Returns the pids in the cgroup and its descendants, in all hierarchies; none if the cgroup does not exist.
 * A process outside this pid namespace has pid 0.
 */
export async function processes(facts: CgroupFacts, path: string): Promise<number[]> {
  checkPath(path);
  const pids = new Set<number>();
  for (const top of cgroupDirectories(facts, path)) {
    for await (const directory of directoriesFrom(top)) for (const pid of pidsOf(directory, path)) pids.add(pid);
  }
  return [...pids];
}

function pidsOf(directory: string, path: string): number[] {
  try {
    return words(readText(`${directory}/cgroup.procs`)).map(Number);
  } catch (error) {
    // ENOENT and ENODEV: removed in the meantime. EOPNOTSUPP: a threaded cgroup, whose processes are listed by its parent.
    if (isErrno(error, 'ENOENT', 'ENODEV', 'EOPNOTSUPP')) return [];
    throw internal(`list processes of cgroup ${path}: ${kernelReason(error)}`, error);
  }
}

/**
 * Moves a process into a cgroup. Creates the cgroup if it does not exist: a service manager may remove it at any time after its last process has ended.
 *
 * @returns true if the cgroup was created.
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
      // The process has ended.
      if (isErrno(error, 'ESRCH')) return isNew;
      if (attempt === enterAttemptsMax || !isErrno(error, 'ENOENT', 'ENODEV'))
        throw internal(`move process ${pid} into cgroup ${path}: ${kernelReason(error)}`, error);
    }
  }
}

/**
 * Kills all processes of the cgroup and its descendants, including forking ones, and waits until they have ended. A frozen cgroup is thawed.
 *
 * @returns the pids that remain after `timeoutMs`, in uninterruptible sleep. Empty if all have ended.
 */
export async function killCgroup(facts: CgroupFacts, path: string, timeoutMs: number): Promise<readonly number[]> {
  checkPath(path);
  const deadline = performance.now() + timeoutMs;
  let isKilledByKernel = killByKernel(facts, path);
  for (let pauseMs = 1; ; pauseMs = Math.min(2 * pauseMs, pauseMsMax)) {
    // After cgroup.kill, the first check may still list processes that are ending.
    if (!isKilledByKernel) await killFrozen(facts, path);
    const remaining = await processes(facts, path);
    if (remaining.length === 0 || performance.now() >= deadline) return remaining;
    await sleep(pauseMs);
    isKilledByKernel = pauseMs === 1 && isKilledByKernel;
  }
}

/** Writes cgroup.kill (Linux 5.14), which kills all descendants at once, including processes that are forking. @returns false if the file does not exist. */
function killByKernel(facts: CgroupFacts, path: string): boolean {
  const directory = unifiedDirectory(facts, path);
  if (directory === null || !existsSync(`${directory}/cgroup.kill`)) return false;
  try {
    writeFile(`${directory}/cgroup.kill`, '1');
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENODEV')) throw internal(`kill cgroup ${path}: ${kernelReason(error)}`, error);
  }
  // A process in the v1 freezer gets signals only after it is thawed.
  if (facts.version === 1) setFrozen(facts, path, false);
  return true;
}

/** Frozen processes cannot fork, so one pass kills all of them. */
async function killFrozen(facts: CgroupFacts, path: string): Promise<void> {
  setFrozen(facts, path, true);
  try {
    const pids = (await processes(facts, path)).filter((pid) => pid !== 0);
    for (let start = 0; start < pids.length; start += pidfdsMax) await killPids(facts, path, pids.slice(start, start + pidfdsMax));
  } finally {
    setFrozen(facts, path, false);
  }
}

/** Kills by pidfd, and only processes that are still listed after the pidfd was opened: the pid may have been reused before. */
async function killPids(facts: CgroupFacts, path: string, pids: readonly number[]): Promise<void> {
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

/** @returns false if there is no freezer, or the cgroup does not exist. */
function setFrozen(facts: CgroupFacts, path: string, isFrozen: boolean): boolean {
  const [file, frozen, thawed] = facts.version === 2 ? ['cgroup.freeze', '1', '0'] : ['freezer.state', 'FROZEN', 'THAWED'];
  try {
    writeFile(`${controllerDirectory(facts, path, 'freezer')}/${file}`, isFrozen ? frozen : thawed);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return false;
    throw internal(`write to ${file} of cgroup ${path}: ${kernelReason(error)}`, error);
  }
}

/**
 * Freezes all processes of the cgroup and its descendants.
 *
 * @throws {BerthError} INTERNAL if some do not stop within `timeoutMs`; the cgroup is then thawed. FAILED_PRECONDITION without a freezer.
 */
export async function freeze(facts: CgroupFacts, path: string, timeoutMs: number): Promise<void> {
  checkPath(path);
  const deadline = performance.now() + timeoutMs;
  if (!setFrozen(facts, path, true)) throw failedPrecondition(`freeze cgroup ${path}: it does not exist, or the node has no freezer`);
  for (let pauseMs = 1; !isFrozen(facts, path); pauseMs = Math.min(2 * pauseMs, pauseMsMax)) {
    if (performance.now() >= deadline) {
      setFrozen(facts, path, false);
      throw internal(`freeze cgroup ${path}: some processes were not frozen within ${timeoutMs} ms`);
    }
    await sleep(pauseMs);
    // v1 signals each process once, and a process may miss it: kernel/cgroup/legacy_freezer.c, freeze_cgroup().
    if (facts.version === 1) setFrozen(facts, path, true);
  }
}

/** Returns the directory of the cgroup's freezer. @throws {BerthError} FAILED_PRECONDITION without a freezer. */
export function freezerDirectory(facts: CgroupFacts, path: string): string {
  checkPath(path);
  const directory = controllerDirectory(facts, path, 'freezer');
  if (directory === null) throw failedPrecondition(`freeze cgroup ${path}: the node has no freezer`);
  return directory;
}

function isFrozen(facts: CgroupFacts, path: string): boolean {
  if (facts.version === 2) return /^frozen 1$/m.test(readText(`${controllerDirectory(facts, path, 'cgroup')}/cgroup.events`));
  // v1: reading also makes the kernel check whether the last process has stopped.
  return readText(`${controllerDirectory(facts, path, 'freezer')}/freezer.state`) === 'FROZEN';
}

/** Thaws a cgroup. Succeeds if it is not frozen, or gone. */
export function thaw(facts: CgroupFacts, path: string): void {
  checkPath(path);
  setFrozen(facts, path, false);
}
