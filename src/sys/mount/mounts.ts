/**
 * Mounts by file descriptor: detached file systems, clones of host trees, and attributes.
 *
 * A detached mount is in no namespace until it is moved to a place: if the daemon dies, it is gone. Source: mount_setattr(2), fsopen(2).
 */
import koffi from 'koffi';
import { checked, errnoByName, libc, SyscallError } from '../call/ffi.ts';
import { AT_FDCWD, close, O_CLOEXEC } from '../call/syscalls.ts';

const SYS_open_tree = 428;
const SYS_move_mount = 429;
const SYS_fsopen = 430;
const SYS_fsconfig = 431;
const SYS_fsmount = 432;
const SYS_mount_setattr = 442;

const c_fsopen = libc.func('long syscall(long nr, const char *type, long flags)');
const c_fsconfig = libc.func('long syscall(long nr, long fd, long command, const char *key, const char *value, long aux)');
const c_fsmount = libc.func('long syscall(long nr, long fd, long flags, long attributes)');
const c_openTree = libc.func('long syscall(long nr, long dir, const char *path, long flags)');
const c_moveMount = libc.func('long syscall(long nr, long from, const char *fromPath, long to, const char *toPath, long flags)');
const c_setattr = libc.func('long syscall(long nr, long dir, const char *path, long flags, void *attributes, long size)');
const c_mount = libc.func('int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)');
const c_umount2 = libc.func('int umount2(const char *target, int flags)');
const c_read = libc.func('long read(int fd, void *buffer, long length)');

const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const OPEN_TREE_CLONE = 1;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_SET_FD = 5;
const FSCONFIG_CMD_CREATE = 6;

/** Attributes of one mount: include/uapi/linux/mount.h. */
export const MOUNT_ATTR_RDONLY = 0x1;
export const MOUNT_ATTR_NOSUID = 0x2;
export const MOUNT_ATTR_NODEV = 0x4;
export const MOUNT_ATTR_NOEXEC = 0x8;
const MOUNT_ATTR_IDMAP = 0x100000;

/** Propagation of one mount: mount(2). */
export const MS_PRIVATE = 1 << 18;
export const MS_SHARED = 1 << 20;

const MS_BIND = 0x1000;
const MS_REC = 0x4000;
const MNT_DETACH = 2;

/** An option of a file system: a string, a bare flag, or an open fd. */
export type FsOption = readonly [key: string, value: string | number | true];

/**
 * A new file system as a detached mount.
 *
 * @param options in order; a number is an fd.
 * @returns the mount's fd.
 * @throws {SyscallError} with the kernel's own sentence where it gives one.
 */
export function createDetachedMount(type: string, options: readonly FsOption[], attributes = 0): number {
  const fs = checked(c_fsopen(SYS_fsopen, type, FSOPEN_CLOEXEC), () => `opening file system type ${type}`);
  try {
    for (const [key, value] of options) configure(fs, type, key, value);
    const created: number = c_fsconfig(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, null, null, 0);
    if (created < 0) throw explained(fs, `creating a file system of type ${type}`);
    return checked(c_fsmount(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes), () => `mounting a file system of type ${type}`);
  } finally {
    close(fs);
  }
}

function configure(fs: number, type: string, key: string, value: string | number | true): void {
  const result: number =
    value === true
      ? c_fsconfig(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, key, null, 0)
      : typeof value === 'number'
        ? c_fsconfig(SYS_fsconfig, fs, FSCONFIG_SET_FD, key, null, value)
        : c_fsconfig(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0);
  if (result < 0) throw explained(fs, `setting ${key} of a file system of type ${type}`);
}

/** The failure of the last call with the messages that the kernel left in the file system context. */
function explained(fs: number, attempt: string): SyscallError {
  const errno = koffi.errno();
  const messages: string[] = [];
  const buffer = Buffer.alloc(1024);
  for (;;) {
    const count: number = c_read(fs, buffer, buffer.length);
    if (count <= 0) break;
    messages.push(buffer.toString('utf8', 0, count).trim());
  }
  return new SyscallError([attempt, ...messages].join(': '), errno);
}

/** A copy of the tree of mounts at a path, detached (open_tree(2)). */
export function cloneTree(path: string, options: { isRecursive: boolean }): number {
  const flags = OPEN_TREE_CLONE | O_CLOEXEC | (options.isRecursive ? AT_RECURSIVE : 0);
  return checked(c_openTree(SYS_open_tree, AT_FDCWD, path, flags), () => `taking the mount at ${path}`);
}

/** A copy of the mount at an open directory or file, from there down, detached. @throws {SyscallError} EINVAL, before Linux 6.15, for a part of a detached one. */
export function cloneOpen(fd: number): number {
  return checked(c_openTree(SYS_open_tree, fd, '', OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH), () => 'taking a part of a mount');
}

/** As cloneTree(), with ids shown as the user namespace of the fd maps them. @throws {SyscallError} EINVAL where the file system cannot. */
export function cloneIdmapped(path: string, options: { readonly userNamespace: number; readonly isRecursive: boolean }): number {
  const mount = cloneTree(path, options);
  try {
    setMountAttributes(mount, options);
    return mount;
  } catch (error) {
    close(mount);
    throw error;
  }
}

/** Attaches a detached mount at a path of this mount namespace. */
export function attachMount(mount: number, target: string): void {
  checked(c_moveMount(SYS_move_mount, mount, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), () => `mounting on ${target}`);
}

/**
 * Calls `use` while detached mounts lie, one over the other, on a directory, for kernels that take only what is mounted somewhere.
 * In one synchronous section; what a crash leaves there, unmount() takes away.
 */
export function whileAttached<T>(mounts: readonly number[], target: string, use: () => T): T {
  try {
    for (const mount of mounts) attachMount(mount, target);
    return use();
  } finally {
    while (unmount(target));
  }
}

/** `userNamespace`: fd of the one that maps the ids shown; only while the mount is detached, and was not mapped before. */
export type MountChange = { readonly set?: number; readonly clear?: number; readonly propagation?: number; readonly userNamespace?: number };

/** The bytes of `struct mount_attr`. */
function mountAttr(change: MountChange): Buffer {
  const bytes = Buffer.alloc(32);
  const set = (change.set ?? 0) | (change.userNamespace === undefined ? 0 : MOUNT_ATTR_IDMAP);
  bytes.writeBigUInt64LE(BigInt(set), 0);
  bytes.writeBigUInt64LE(BigInt(change.userNamespace ?? 0), 24);
  bytes.writeBigUInt64LE(BigInt(change.clear ?? 0), 8);
  bytes.writeBigUInt64LE(BigInt(change.propagation ?? 0), 16);
  return bytes;
}

/** mount_setattr(2) on an open mount. */
export function setMountAttributes(mount: number, change: MountChange & { readonly isRecursive: boolean }): void {
  const attributes = mountAttr(change);
  const flags = AT_EMPTY_PATH | (change.isRecursive ? AT_RECURSIVE : 0);
  checked(c_setattr(SYS_mount_setattr, mount, '', flags, attributes, attributes.length), () => 'setting attributes of a mount');
}

/** mount(2), for kernels without a newer way. @param data options as text, at most 4095 bytes. */
export function mountByText(type: string, target: string, data: string): void {
  checked(c_mount(type, target, type, 0, data), () => `mounting a file system of type ${type}`);
}

/** Binds a file or directory (not what is mounted below it) on another. */
export function bind(source: string, target: string): void {
  checked(c_mount(source, target, null, MS_BIND, null), () => `binding ${source} on ${target}`);
}

/** Sets the propagation of the mount at a path. */
export function setPropagation(target: string, propagation: number, isRecursive = false): void {
  checked(c_mount(null, target, null, propagation | (isRecursive ? MS_REC : 0), null), () => `setting the propagation of ${target}`);
}

/** umount2(2). @returns false when nothing is mounted there, or there is no such path. */
export function unmount(target: string, flags = MNT_DETACH): boolean {
  if (c_umount2(target, flags) === 0) return true;
  const errno = koffi.errno();
  if (errno === errnoByName.EINVAL || errno === errnoByName.ENOENT) return false;
  throw new SyscallError(`unmounting ${target}`, errno);
}
