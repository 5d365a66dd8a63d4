/**
 * Writes sysctls of the calling thread's namespaces.
 */
import { writeSync } from 'node:fs';
import { failedTo, invalidArgument, reasonOf } from '../../lib/errors.ts';
import { isErrno } from '../call/ffi.ts';
import {
  AT_FDCWD,
  close,
  fileSystemType,
  O_DIRECTORY,
  O_PATH,
  O_WRONLY,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
} from '../call/syscalls.ts';

export type Sysctl = {
  /** As requested, for messages. */
  readonly name: string;
  /** Relative to /proc/sys. */
  readonly path: string;
  readonly value: string;
};

/** PROC_SUPER_MAGIC of include/uapi/linux/magic.h. */
const procMagic = 0x9fa0;

/**
 * Opens /proc/sys, and checks that it is the kernel's: a value written elsewhere would have no effect, or reach a file that somebody put there
 * (CVE-2025-52881).
 *
 * @returns an O_PATH fd. @throws {Error} if something else is mounted there.
 */
function openSysctls(): number {
  const directory = openat(AT_FDCWD, '/proc/sys', O_PATH | O_DIRECTORY);
  try {
    if (fileSystemType(directory) !== procMagic) throw new Error('open /proc/sys: not the proc file system');
    return directory;
  } catch (error) {
    close(directory);
    throw error;
  }
}

/**
 * Writes sysctls. Synchronous, because the files belong to the namespaces of the calling thread, so this must not go to Node's thread pool.
 *
 * @throws {Error} with the name and the value of the sysctl.
 */
export function writeSysctls(sysctls: readonly Sysctl[]): void {
  if (sysctls.length === 0) return;
  const directory = openSysctls();
  try {
    for (const sysctl of sysctls) writeSysctl(directory, sysctl);
  } finally {
    close(directory);
  }
}

function writeSysctl(directory: number, { name, path, value }: Sysctl): void {
  try {
    const file = openat2(directory, path, { flags: O_WRONLY, resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV });
    try {
      writeSync(file, value);
    } finally {
      close(file);
    }
  } catch (error) {
    const attempt = `set sysctl ${name} to ${value}`;
    throw isErrno(error, 'EINVAL', 'ERANGE') ? invalidArgument(`${attempt}: ${reasonOf(error)}`, error) : failedTo(attempt, error);
  }
}
