/**
 * A project quota for each container's directory, where the file system has them: what it takes is known at any time, and can be limited.
 *
 * The number of a project is kept by the directory itself, so it outlives the daemon and goes with the directory.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { limitProject, type ProjectUse, projectOf, readProject, readQuotaState, setProject } from '../../sys/filesystem/quota.ts';

export type DiskQuotas = {
  /**
   * Puts the new, empty directory of a container into a project of its own.
   *
   * @param limitBytes undefined: none.
   * @throws {BerthError} FAILED_PRECONDITION where there is to be a limit and none would hold.
   */
  readonly assign: (id: string, limitBytes?: number) => void;
  /** Of the whole directory; null for one without a project. */
  readonly usage: (id: string) => ProjectUse | null;
  /** To be called when its directory is gone. Idempotent. */
  readonly forget: (id: string) => void;
};

/** A stretch of numbers that others leave alone, and in it one for each root directory. */
const firstProject = 0x40000000;
const stretches = 1 << 14;
const stretchLength = 1 << 16;

/** @param directory of the containers' directories. */
export function openDiskQuotas(directory: string): DiskQuotas {
  // Kept for as long as the daemon lives, where there are quotas.
  const fd = openSync(directory, 'r');
  const { isCounted, isEnforced } = readQuotaState(fd);
  if (!isCounted) closeSync(fd);
  const projects = new Map<string, number>();
  for (const id of isCounted ? readdirSync(directory) : []) {
    const project = projectOf(join(directory, id));
    if (project !== 0) projects.set(id, project);
  }
  const first = firstProject + stretchOf(realpathSync(directory)) * stretchLength;
  return {
    assign: (id, limitBytes) => {
      if (limitBytes !== undefined && !isEnforced) {
        throw failedPrecondition(
          `limiting what a container may write to ${limitBytes} bytes: the file system of ${directory} has no project quotas (ext4: -O project,quota and the mount option prjquota; xfs: the mount option prjquota)`,
        );
      }
      if (!isCounted) return;
      const project = freeProject(fd, first, new Set(projects.values()));
      projects.set(id, project);
      if (isEnforced) limitProject(fd, project, limitBytes ?? 0);
      setProject(join(directory, id), project);
    },
    usage: (id) => {
      const project = projects.get(id);
      return project === undefined ? null : unlessSwitchedOff(() => readProject(fd, project));
    },
    forget: (id) => {
      const project = projects.get(id);
      if (project === undefined) return;
      projects.delete(id);
      if (isEnforced) limitProject(fd, project, 0);
    },
  };
}

/** Quotas can be switched off while the file system is in use. */
function unlessSwitchedOff(read: () => ProjectUse): ProjectUse | null {
  try {
    return read();
  } catch (error) {
    if (isErrno(error, 'ESRCH', 'ENOSYS')) return null;
    throw error;
  }
}

function stretchOf(path: string): number {
  return createHash('sha256').update(path).digest().readUInt32LE(0) % stretches;
}

/** One that has no files: those of another daemon on the same file system may have the same stretch. */
function freeProject(fd: number, first: number, taken: ReadonlySet<number>): number {
  for (let project = first; project < first + stretchLength; project += 1) {
    if (!taken.has(project) && readProject(fd, project).inodes === 0) return project;
  }
  throw new BerthError('RESOURCE_EXHAUSTED', `no project of the ${stretchLength} from ${first} on is free for a disk quota`);
}
