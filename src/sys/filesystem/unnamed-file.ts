/**
 * Files without a name (O_TMPFILE), which are invisible until they are complete. If the process ends before that, they disappear with the last fd.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { checked, libc } from '../call/ffi.ts';
import { AT_FDCWD, O_DIRECTORY } from '../call/syscalls.ts';

const c_linkat = libc.func('int linkat(int oldDir, const char *oldPath, int newDir, const char *newPath, int flags)');
const AT_SYMLINK_FOLLOW = 0x400;
/** open(2) */
const O_TMPFILE = 0o20000000 | O_DIRECTORY;

/** @param directory a directory of the file system. @throws EOPNOTSUPP or EISDIR if the file system does not support O_TMPFILE. */
export function openUnnamed(directory: string, mode: number): Promise<FileHandle> {
  return open(directory, O_TMPFILE | constants.O_RDWR, mode);
}

/** Names the file. @throws {SyscallError} EEXIST if the name exists. */
export function nameFile(fd: number, path: string): void {
  // Links through /proc, proc_pid_fd(5): linkat(2) with AT_EMPTY_PATH requires a privilege.
  checked(c_linkat(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, path, AT_SYMLINK_FOLLOW), () => `create ${path}`);
}
