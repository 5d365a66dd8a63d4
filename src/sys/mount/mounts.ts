/**
 * Mounts by file descriptor: detached file systems, clones of mount trees, and mount attributes.
 *
 * A detached mount is in no namespace until it is attached. If the daemon dies, it is gone. Source: mount_setattr(2), fsopen(2).
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

/** An option of a file system: a string, a flag (true), or an open fd. */
export type FsOption = readonly [key: string, value: string | number | true];

/**
 * Creates a file system as a detached mount.
 *
 * @param options in order; a number is an fd.
 * @returns the fd of the mount.
 * @throws {SyscallError} with the kernel's own message if there is one.
 */
export function createDetachedMount(type: string, options: readonly FsOption[], attributes = 0): number {
  const fs = checked(c_fsopen(SYS_fsopen, type, FSOPEN_CLOEXEC), () => `open file system type ${type}`);
  try {
    for (const [key, value] of options) configure(fs, type, key, value);
    const created: number = c_fsconfig(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, null, null, 0);
    if (created < 0) throw explained(fs, `create a file system of type ${type}`);
    return checked(c_fsmount(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes), () => `mount a file system of type ${type}`);
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
  if (result < 0) throw explained(fs, `set ${key} of a file system of type ${type}`);
}

/** Returns the error of the last call, with the kernel's messages from the file system context. */
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

/** Clones the mount at a path, optionally with its submounts, as a detached mount (open_tree(2)). */
export function cloneTree(path: string, options: { isRecursive: boolean }): number {
  const flags = OPEN_TREE_CLONE | O_CLOEXEC | (options.isRecursive ? AT_RECURSIVE : 0);
  return checked(c_openTree(SYS_open_tree, AT_FDCWD, path, flags), () => `clone the mount at ${path}`);
}

/** Clones a mount from an open directory or file down, as a detached mount. @throws {SyscallError} EINVAL, before Linux 6.15, for a part of a detached mount. */
export function cloneOpen(fd: number): number {
  return checked(c_openTree(SYS_open_tree, fd, '', OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH), () => 'clone a part of a mount');
}

/** Like cloneTree(), with ids mapped by a user namespace, given as an fd. @throws {SyscallError} EINVAL if the file system does not support it. */
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
  checked(c_moveMount(SYS_move_mount, mount, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), () => `mount on ${target}`);
}

/**
 * Calls `use` while detached mounts are attached to a directory, one over the other, for kernels that accept only attached mounts.
 * Runs in one synchronous section. After a crash, unmount() removes the remaining mounts.
 */
export function whileAttached<T>(mounts: readonly number[], target: string, use: () => T): T {
  try {
    for (const mount of mounts) attachMount(mount, target);
    return use();
  } finally {
    while (unmount(target));
  }
}

/** `userNamespace`: fd of the user namespace that maps the ids; only for a detached mount without an id mapping. */
export type MountChange = { readonly set?: number; readonly clear?: number; readonly propagation?: number; readonly userNamespace?: number };

/** Encodes a `struct mount_attr`. */
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
  checked(c_setattr(SYS_mount_setattr, mount, '', flags, attributes, attributes.length), () => 'set attributes of a mount');
}

/** mount(2), for kernels without the newer calls. @param data options as text, at most 4095 bytes. */
export function mountByText(type: string, target: string, data: string): void {
  checked(c_mount(type, target, type, 0, data), () => `mount a file system of type ${type}`);
}

/** Bind mounts a file or directory, without its submounts. */
export function bind(source: string, target: string): void {
  checked(c_mount(source, target, null, MS_BIND, null), () => `bind mount ${source} on ${target}`);
}

/** Sets the propagation of the mount at a path. */
export function setPropagation(target: string, propagation: number, isRecursive = false): void {
  checked(c_mount(null, target, null, propagation | (isRecursive ? MS_REC : 0), null), () => `set the propagation of ${target}`);
}

/** umount2(2). @returns false if nothing is mounted at the path, or it does not exist. */
export function unmount(target: string, flags = MNT_DETACH): boolean {
  if (c_umount2(target, flags) === 0) return true;
  const errno = koffi.errno();
  if (errno === errnoByName.EINVAL || errno === errnoByName.ENOENT) return false;
  throw new SyscallError(`unmount ${target}`, errno);
}
