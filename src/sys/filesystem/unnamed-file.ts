/**
 * Files that nobody sees until they are whole: without a name they go with their last fd, however their maker ends.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { checked, libc } from '../call/ffi.ts';
import { AT_FDCWD, O_DIRECTORY } from '../call/syscalls.ts';

const c_linkat = libc.func('int linkat(int oldDir, const char *oldPath, int newDir, const char *newPath, int flags)');
const AT_SYMLINK_FOLLOW = 0x400;
/** open(2) */
const O_TMPFILE = 0o20000000 | O_DIRECTORY;

/** @param directory in whose file system it will lie. @throws EOPNOTSUPP or EISDIR where that has no such files. */
export function openUnnamed(directory: string, mode: number): Promise<FileHandle> {
  return open(directory, O_TMPFILE | constants.O_RDWR, mode);
}

/** Gives it its name. @throws {SyscallError} EEXIST when the name is taken. */
export function nameFile(fd: number, path: string): void {
  // As proc_pid_fd(5) has it, for linkat(2) takes an fd by itself from the privileged alone.
  checked(c_linkat(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, path, AT_SYMLINK_FOLLOW), () => `creating ${path}`);
}
