/**
 * Writes values to a cgroup's files, and reads counters from them. Executes a list of writes; decides no value.
 */
import { constants, existsSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, type ErrorCode, failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import { type CgroupFacts, type CgroupWrite, controllerDirectory, flatKeyed } from './cgroup-facts.ts';
import { checkPath, directoriesFrom, kernelReason, readText, words, writeFile } from './cgroup-files.ts';
import { valueBefore } from './cgroup-undo.ts';

/**
 * Writes the values of a new cgroup, in order. On failure the cgroup remains; the caller removes it with removeCgroup().
 *
 * @throws {BerthError} `write 5000 to cpu.max of /x: invalid argument (EINVAL)`; INVALID_ARGUMENT for a value that the kernel rejects,
 *   FAILED_PRECONDITION for a missing file.
 */
export function writeCgroup(facts: CgroupFacts, path: string, writes: readonly CgroupWrite[]): void {
  for (const write of writes) {
    try {
      writeFile(fileOf(facts, path, write), write.value);
    } catch (error) {
      if (!isTolerated(write, error)) throw writeError(facts, path, write, error);
    }
  }
}

/**
 * Changes the values of a cgroup in use. After a failure, restores the earlier values. Asynchronous, because lowering a memory limit makes the kernel
 * reclaim memory.
 *
 * @returns a function that restores the earlier values.
 * @throws {BerthError} like writeCgroup(); the message names files that could not be restored.
 */
export async function updateCgroup(facts: CgroupFacts, path: string, writes: readonly CgroupWrite[]): Promise<() => Promise<void>> {
  const done: Done[] = [];
  for (const write of writes) {
    const file = fileOf(facts, path, write);
    try {
      const before = await readFile(file, 'utf8');
      const effective = before.trim() === '' ? await readFile(`${file}.effective`, 'utf8').catch(() => null) : null;
      await writeFileAsync(file, write.value);
      done.push({ write, file, before, effective });
    } catch (error) {
      if (isTolerated(write, error)) continue;
      const failure = writeError(facts, path, write, error);
      const leftovers: string[] = [];
      for (const each of done.reverse()) await restore(each).catch(() => leftovers.push(each.write.file));
      if (leftovers.length === 0) throw failure;
      throw new BerthError(failure.code, `${failure.message}; not restored: ${leftovers.join(', ')}`, error);
    }
  }
  return async () => {
    for (const each of done.reverse()) await restore(each);
  };
}

/** `effective`: the effective value of an empty list (cpuset of v2). */
type Done = { readonly write: CgroupWrite; readonly file: string; readonly before: string; readonly effective: string | null };

async function restore({ write, file, before, effective }: Done): Promise<void> {
  try {
    await writeFileAsync(file, valueBefore(write.file, write.value, before));
  } catch (error) {
    // The kernel does not allow emptying a cpuset that has processes.
    if (effective === null || !isErrno(error, 'ENOSPC')) throw error;
    await writeFileAsync(file, effective);
  }
}

function isTolerated(write: CgroupWrite, error: unknown): boolean {
  return write.tolerate === 'missing' && isErrno(error, 'ENOENT');
}

function fileOf(facts: CgroupFacts, path: string, write: CgroupWrite): string {
  checkPath(path);
  const directory = controllerDirectory(facts, path, write.controller);
  if (directory === null)
    throw failedPrecondition(`write ${valueText(write.value)} to ${write.file} of ${path}: cgroup controller ${write.controller} is not mounted`);
  return `${directory}/${write.file}`;
}

function writeError(facts: CgroupFacts, path: string, write: CgroupWrite, error: unknown): BerthError {
  const codes: Readonly<Record<string, ErrorCode>> = {
    EINVAL: 'INVALID_ARGUMENT',
    ERANGE: 'INVALID_ARGUMENT',
    // v1: cpus that the pod does not have.
    EACCES: 'INVALID_ARGUMENT',
    ENOENT: 'FAILED_PRECONDITION',
    // No such device.
    ENODEV: 'FAILED_PRECONDITION',
    EBUSY: 'FAILED_PRECONDITION',
    // v1: a cpuset with processes and no cpu.
    ENOSPC: 'FAILED_PRECONDITION',
    EOPNOTSUPP: 'FAILED_PRECONDITION',
  };
  const code = codes[String((error as NodeJS.ErrnoException).code)] ?? 'INTERNAL';
  return new BerthError(
    code,
    `write ${valueText(write.value)} to ${write.file} of ${path}: ${kernelReason(error)}${whyMissing(facts, path, write)}`,
    error,
  );
}

/** Messages are one line. */
const valueText = (value: string): string => value.trim() || 'an empty line';

/** v2: a file is also missing if its controller could not be enabled. */
function whyMissing(facts: CgroupFacts, path: string, write: CgroupWrite): string {
  if (facts.version === 1 || write.controller === 'cgroup') return '';
  try {
    const isEnabled = words(readText(`${controllerDirectory(facts, path, 'cgroup')}/cgroup.controllers`)).includes(write.controller);
    return isEnabled ? '' : `; controller ${write.controller} is not enabled for this cgroup`;
  } catch {
    return '';
  }
}

/**
 * Returns how much memory the kernel cannot reclaim, in bytes: usage without the page cache of files. Locked pages and those of tmpfs are on other lists,
 * so they are included: Documentation/admin-guide/cgroup-v2.rst. Null if it cannot be read.
 */
export function readMemoryUsage(facts: CgroupFacts, path: string): number | null {
  const directory = controllerDirectory(facts, path, 'memory');
  const [usage, prefix] = facts.version === 1 ? ['memory.usage_in_bytes', 'total_'] : ['memory.current', ''];
  try {
    const used = Number(readText(`${directory}/${usage}`));
    const stat = readText(`${directory}/memory.stat`);
    const reclaimable = ['active_file', 'inactive_file'].reduce((bytes, name) => bytes + (flatKeyed(stat, `${prefix}${name}`) ?? 0), 0);
    return Math.max(0, used - reclaimable);
  } catch {
    return null;
  }
}

const reclaimAttemptsMax = 10;
/** Time for dirty pages to be written. */
const reclaimPauseMs = 100;

/**
 * Reclaims memory of a cgroup v2 until its usage is at most the limit, as a new memory.max requires: the kernel kills processes if it cannot reclaim
 * enough in five attempts (memory_max_write() of mm/memcontrol.c). Does nothing on v1, which refuses such a limit, and before Linux 5.19.
 *
 * @returns the remaining usage in bytes if it exceeds the limit, else null.
 */
export async function reclaimMemory(facts: CgroupFacts, path: string, limitBytes: number): Promise<number | null> {
  const directory = facts.version === 2 ? controllerDirectory(facts, path, 'memory') : null;
  if (directory === null || !existsSync(`${directory}/memory.reclaim`)) return null;
  for (let attempt = 1; ; attempt += 1) {
    const excess = Number(readText(`${directory}/memory.current`)) - limitBytes;
    if (excess <= 0) return null;
    if (attempt > reclaimAttemptsMax) return excess + limitBytes;
    try {
      await writeFileAsync(`${directory}/memory.reclaim`, String(excess));
    } catch (error) {
      // Less was reclaimed than requested.
      if (!isErrno(error, 'EAGAIN')) throw error;
      await sleep(reclaimPauseMs);
    }
  }
}

/**
 * Returns how many processes of the cgroup and its descendants the OOM killer has killed, because of any limit.
 * Must be read before the cgroup is removed. Null if the cgroup does not exist, or there is no memory controller.
 */
export async function oomKills(facts: CgroupFacts, path: string): Promise<number | null> {
  checkPath(path);
  const directory = controllerDirectory(facts, path, 'memory');
  if (directory === null) return null;
  try {
    // v2 counts a kill in all ancestors too; v1 only in the cgroup of the killed process.
    if (facts.version === 2) return flatKeyed(readText(`${directory}/memory.events`), 'oom_kill');
    let kills = 0;
    for await (const each of directoriesFrom(directory)) kills += flatKeyed(readText(`${each}/memory.oom_control`), 'oom_kill') ?? 0;
    return kills;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENODEV')) return null;
    throw error;
  }
}

async function writeFileAsync(file: string, value: string): Promise<void> {
  const handle = await open(file, constants.O_WRONLY);
  try {
    await handle.write(value);
  } finally {
    await handle.close();
  }
}
