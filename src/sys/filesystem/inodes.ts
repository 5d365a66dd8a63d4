/**
 * Creates and changes inodes relative to a directory fd, with the calls that node:fs lacks (…at, nanoseconds, xattrs, device nodes).
 *
 * Names are byte strings (`latin1`: one character per byte), because file names need not be UTF-8. Can be used in workers: no state is shared between
 * threads. Never follows a symbolic link in the last component.
 */
import { fstatSync, readdirSync } from 'node:fs';
import { checked, isErrno, libc, SyscallError } from '../call/ffi.ts';
import {
  O_APPEND,
  O_CLOEXEC,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_SYMLINKS,
  SYS_openat2,
} from '../call/syscalls.ts';

const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_REMOVEDIR = 0x200;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const S_IFIFO = 0o010000;

const c_openat = libc.func('int openat(int dir, const uint8_t *path, int flags, uint mode)');
const c_openat2 = libc.func('long syscall(long nr, long dir, const uint8_t *path, void *how, long size)');
const c_mkdirat = libc.func('int mkdirat(int dir, const uint8_t *path, uint mode)');
const c_mknodat = libc.func('int mknodat(int dir, const uint8_t *path, uint mode, uint64_t dev)');
const c_symlinkat = libc.func('int symlinkat(const uint8_t *target, int dir, const uint8_t *path)');
const c_linkat = libc.func('int linkat(int oldDir, const uint8_t *oldPath, int newDir, const uint8_t *newPath, int flags)');
const c_renameat = libc.func('int renameat(int oldDir, const uint8_t *oldPath, int newDir, const uint8_t *newPath)');
const c_unlinkat = libc.func('int unlinkat(int dir, const uint8_t *path, int flags)');
const c_readlinkat = libc.func('long readlinkat(int dir, const uint8_t *path, void *buffer, size_t size)');
const c_fchown = libc.func('int fchown(int fd, uint uid, uint gid)');
const c_fchmod = libc.func('int fchmod(int fd, uint mode)');
const c_fchownat = libc.func('int fchownat(int dir, const uint8_t *path, uint uid, uint gid, int flags)');
const c_fchmodat = libc.func('int fchmodat(int dir, const uint8_t *path, uint mode, int flags)');
const c_futimens = libc.func('int futimens(int fd, const void *times)');
const c_utimensat = libc.func('int utimensat(int dir, const uint8_t *path, const void *times, int flags)');
const c_fsetxattr = libc.func('int fsetxattr(int fd, const uint8_t *name, const void *value, size_t size, int flags)');
const c_lsetxattr = libc.func('int lsetxattr(const uint8_t *path, const uint8_t *name, const void *value, size_t size, int flags)');
const c_close = libc.func('int close(int fd)');

/** Longest path or link target, with the terminating NUL: include/uapi/linux/limits.h, PATH_MAX. */
const pathBytesMax = 4096;
/** Reused for all calls: they are synchronous, and each thread has its own copy of this module. */
const first = Buffer.alloc(pathBytesMax + 1);
const second = Buffer.alloc(pathBytesMax + 1);
const times = new Int32Array(8);

/** Whole seconds since the epoch, and nanoseconds from 0 to 999,999,999. */
export type Timestamp = { readonly seconds: number; readonly nanoseconds: number };

/** Opens a directory. Returns undefined if the name does not exist or is not a directory; symbolic links are not followed. */
export function openDirectoryAt(dir: number, name: string): number | undefined {
  try {
    return checked(c_openat(dir, nul(first, name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0), () => `open directory ${shown(name)}`);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) return undefined;
    throw error;
  }
}

/**
 * Creates an empty file and opens it for appending. After truncating it to a larger size, writes continue behind the hole.
 *
 * @param mode reduced by the thread's umask or the directory's default ACL.
 * @throws EEXIST if the name exists, also as a symbolic link.
 */
export function createFileAt(dir: number, name: string, mode: number): number {
  const flags = O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  return checked(c_openat(dir, nul(first, name), flags, mode), () => `create ${shown(name)}`);
}

/**
 * Opens a regular file below the directory for reading, without following symbolic links.
 *
 * @throws ELOOP for a symbolic link, ENOENT, EINVAL if it is not a regular file.
 */
export function openFileBelow(dir: number, path: string): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), 0);
  how.writeBigUInt64LE(BigInt(RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS), 16);
  const fd = checked(c_openat2(SYS_openat2, dir, nul(first, path), how, how.length), () => `open ${shown(path)}`);
  if (fstatSync(fd).isFile()) return fd;
  c_close(fd);
  throw new SyscallError(`open ${shown(path)}`, 22);
}

export function makeDirectoryAt(dir: number, name: string): void {
  checked(c_mkdirat(dir, nul(first, name), 0o755), () => `create directory ${shown(name)}`);
}

/** Creates a device node or FIFO with mode 0600. A character device 0:0 is a whiteout of overlayfs. */
export function makeNodeAt(dir: number, name: string, node: { kind: 'char' | 'block' | 'fifo'; major: number; minor: number }): void {
  const type = node.kind === 'char' ? S_IFCHR : node.kind === 'block' ? S_IFBLK : S_IFIFO;
  checked(c_mknodat(dir, nul(first, name), type | 0o600, deviceNumber(node.major, node.minor)), () => `create ${node.kind} node ${shown(name)}`);
}

/** Encodes a dev_t of user space: include/linux/kdev_t.h, new_encode_dev(), with the 64-bit extension of glibc's makedev(3). */
function deviceNumber(major: number, minor: number): bigint {
  const [high, low] = [BigInt(major), BigInt(minor)];
  return ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn);
}

export function makeSymlinkAt(dir: number, name: string, target: string): void {
  checked(c_symlinkat(nul(second, target), dir, nul(first, name)), () => `create symbolic link ${shown(name)}`);
}

/** Creates a hard link. A symbolic link is linked itself, not its target. */
export function makeLinkAt(targetDir: number, targetName: string, dir: number, name: string): void {
  checked(c_linkat(targetDir, nul(second, targetName), dir, nul(first, name), 0), () => `create hard link ${shown(name)} to ${shown(targetName)}`);
}

/** Renames a file, possibly to another directory of the same file system. */
export function moveAt(dir: number, name: string, targetDir: number, targetName: string): void {
  checked(c_renameat(dir, nul(first, name), targetDir, nul(second, targetName)), () => `rename ${shown(name)} to ${shown(targetName)}`);
}

/** Returns the target of a symbolic link; undefined if the name is not a symbolic link. */
export function readLinkAt(dir: number, name: string): string | undefined {
  try {
    const length = checked(c_readlinkat(dir, nul(first, name), second, pathBytesMax), () => `read link ${shown(name)}`);
    return second.toString('latin1', 0, length);
  } catch (error) {
    if (isErrno(error, 'EINVAL', 'ENOENT')) return undefined;
    throw error;
  }
}

/** Removes a file, or a directory and its contents. Succeeds if the name does not exist. */
export function removeAt(dir: number, name: string): void {
  try {
    checked(c_unlinkat(dir, nul(first, name), 0), () => `remove ${shown(name)}`);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    if (!isErrno(error, 'EISDIR')) throw error;
    removeDirectoryAt(dir, name);
  }
}

function removeDirectoryAt(dir: number, name: string): void {
  const fd = openDirectoryAt(dir, name);
  if (fd === undefined) return;
  try {
    for (const child of readdirSync(`/proc/self/fd/${fd}`, 'latin1')) removeAt(fd, child);
  } finally {
    c_close(fd);
  }
  checked(c_unlinkat(dir, nul(first, name), AT_REMOVEDIR), () => `remove directory ${shown(name)}`);
}

/** Sets owner and mode. The owner is set first, because changing it clears the set-id bits and file capabilities. */
export function setOwnerAndMode(fd: number, uid: number, gid: number, mode: number): void {
  checked(c_fchown(fd, uid, gid), () => `change the owner to ${uid}:${gid}`);
  checked(c_fchmod(fd, mode), () => `change the mode to ${mode.toString(8)}`);
}

/** Sets owner and mode of a device node or FIFO that was just created, so that it cannot be a symbolic link. */
export function setNodeOwnerAndMode(dir: number, name: string, uid: number, gid: number, mode: number): void {
  setLinkOwner(dir, name, uid, gid);
  checked(c_fchmodat(dir, nul(first, name), mode, 0), () => `change the mode of ${shown(name)} to ${mode.toString(8)}`);
}

/** Sets the owner without following a symbolic link. */
export function setLinkOwner(dir: number, name: string, uid: number, gid: number): void {
  checked(c_fchownat(dir, nul(first, name), uid, gid, AT_SYMLINK_NOFOLLOW), () => `change the owner of ${shown(name)} to ${uid}:${gid}`);
}

/** Sets access and modification time to the same value. */
export function setTimes(fd: number, time: Timestamp): void {
  checked(c_futimens(fd, encodeTimes(time)), () => 'set the times of a file');
}

/** Sets the times without following a symbolic link. */
export function setLinkTimes(dir: number, name: string, time: Timestamp): void {
  checked(c_utimensat(dir, nul(first, name), encodeTimes(time), AT_SYMLINK_NOFOLLOW), () => `set the times of ${shown(name)}`);
}

/** Encodes two `struct timespec`. 64-bit numbers are written as two halves, low half first, to avoid allocating BigInts. */
function encodeTimes({ seconds, nanoseconds }: Timestamp): Int32Array {
  const high = Math.floor(seconds / 2 ** 32);
  for (let at = 0; at < times.length; at += 4) {
    times[at] = seconds - high * 2 ** 32;
    times[at + 1] = high;
    times[at + 2] = nanoseconds;
  }
  return times;
}

export function setXattr(fd: number, attribute: string, value: Uint8Array): void {
  checked(c_fsetxattr(fd, nul(second, attribute), value, value.length, 0), () => `set extended attribute ${shown(attribute)}`);
}

/** Sets an extended attribute without following a symbolic link. */
export function setXattrAt(dir: number, name: string, attribute: string, value: Uint8Array): void {
  const path = nul(first, `/proc/self/fd/${dir}/${name}`);
  checked(c_lsetxattr(path, nul(second, attribute), value, value.length, 0), () => `set extended attribute ${shown(attribute)}`);
}

/** Writes the text with a terminating NUL to a buffer that is valid until the next call. */
function nul(scratch: Buffer, text: string): Buffer {
  if (text.length >= pathBytesMax) throw new SyscallError(`use a name of ${text.length} bytes`, 36);
  scratch[scratch.write(text, 'latin1')] = 0;
  return scratch;
}

/** Formats a byte string for messages: as UTF-8 if possible, with control characters escaped. */
function shown(name: string): string {
  return JSON.stringify(Buffer.from(name, 'latin1').toString('utf8').slice(0, 200));
}
