/**
 * Project quotas for containers' directories, where the file system supports them: disk usage is known at any time and can be limited.
 *
 * The project id is an attribute of the directory, so it survives the daemon and disappears with the directory.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { limitProject, type ProjectUse, projectOf, readProject, readQuotaState, setProject } from '../../sys/filesystem/quota.ts';

export type DiskQuotas = {
  /**
   * Assigns a new project to the new, empty directory of a container.
   *
   * @param limitBytes undefined: no limit.
   * @throws {BerthError} FAILED_PRECONDITION if a limit is requested and cannot be enforced.
   */
  readonly assign: (id: string, limitBytes?: number) => void;
  /** Usage of the whole directory; null if it has no project. */
  readonly usage: (id: string) => ProjectUse | null;
  /** Called after the directory was removed. Idempotent. */
  readonly forget: (id: string) => void;
};

/** A range of project ids that other programs do not use; each root directory uses a part of it. */
const firstProject = 0x40000000;
const ranges = 1 << 14;
const rangeLength = 1 << 16;

/** Opens the quotas of a root directory. @param directory contains the containers' directories. */
export function openDiskQuotas(directory: string): DiskQuotas {
  // Kept open while the daemon runs, if there are quotas.
  const fd = openSync(directory, 'r');
  const { isCounted, isEnforced } = readQuotaState(fd);
  if (!isCounted) closeSync(fd);
  const projects = new Map<string, number>();
  for (const id of isCounted ? readdirSync(directory) : []) {
    const project = projectOf(join(directory, id));
    if (project !== 0) projects.set(id, project);
  }
  const first = firstProject + rangeOf(realpathSync(directory)) * rangeLength;
  return {
    assign: (id, limitBytes) => {
      if (limitBytes !== undefined && !isEnforced) {
        throw failedPrecondition(
          `disk limit of ${limitBytes} bytes: the file system of ${directory} has no project quotas (ext4: -O project,quota and the mount option prjquota; xfs: the mount option prjquota)`,
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
      return project === undefined ? null : nullIfDisabled(() => readProject(fd, project));
    },
    forget: (id) => {
      const project = projects.get(id);
      if (project === undefined) return;
      projects.delete(id);
      if (isEnforced) limitProject(fd, project, 0);
    },
  };
}

/** Quotas can be disabled while the file system is mounted. */
function nullIfDisabled(read: () => ProjectUse): ProjectUse | null {
  try {
    return read();
  } catch (error) {
    if (isErrno(error, 'ESRCH', 'ENOSYS')) return null;
    throw error;
  }
}

function rangeOf(path: string): number {
  return createHash('sha256').update(path).digest().readUInt32LE(0) % ranges;
}

/** Returns an id without files: another daemon on the same file system may use the same range. */
function freeProject(fd: number, first: number, taken: ReadonlySet<number>): number {
  for (let project = first; project < first + rangeLength; project += 1) {
    if (!taken.has(project) && readProject(fd, project).inodes === 0) return project;
  }
  throw new BerthError('RESOURCE_EXHAUSTED', `allocate a project id for a disk quota: all ${rangeLength} ids from ${first} are in use`);
}
