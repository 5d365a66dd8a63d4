/**
 * System calls of the daemon, one typed function each. A failure throws SyscallError.
 *
 * All are synchronous and short, except syncfs(). Mount calls are in mounts.ts, namespaces in namespaces.ts.
 */
import koffi from 'koffi';
import { checked, errnoByName, isErrno, libc } from './ffi.ts';

export const AT_FDCWD = -100;
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = process.arch === 'arm64' ? 0o40000 : 0o200000;
export const O_NOFOLLOW = process.arch === 'arm64' ? 0o100000 : 0o400000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;

/** openat2(2) `resolve` bits: include/uapi/linux/openat2.h. */
export const RESOLVE_NO_XDEV = 0x01;
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;
export const RESOLVE_IN_ROOT = 0x10;

/** Numbers of system calls since Linux 5.x are the same on all architectures. */
export const SYS_openat2 = 437;
const SYS_pidfd_open = 434;
const SYS_pidfd_send_signal = 424;

const c_open = libc.func('int openat(int dir, const char *path, int flags, uint mode)');
const c_openat2 = libc.func('long syscall(long nr, long dir, const char *path, void *how, long size)');
const c_fstatfs = libc.func('int fstatfs(int fd, void *buffer)');
const c_close = libc.func('int close(int fd)');
const c_pipe2 = libc.func('int pipe2(void *fds, int flags)');
const c_socketpair = libc.func('int socketpair(int domain, int type, int protocol, void *fds)');
const F_SETFL = 4;
const c_memfd_create = libc.func('int memfd_create(const char *name, uint flags)');
const c_fcntl = libc.func('int fcntl(int fd, int cmd, long arg)');
const c_pidfd = libc.func('long syscall(long nr, long a, long b, long c, long d)');
const c_syncfs = libc.func('int syncfs(int fd)');

/** openat(2). @returns an fd, always close-on-exec. */
export function openat(dir: number, path: string, flags: number, mode = 0): number {
  return checked(c_open(dir, path, flags | O_CLOEXEC, mode), () => `open ${path}`);
}

const how = Buffer.alloc(24);

/**
 * Renames and mounts anywhere on the machine fail a path with `..` in it or in a link (EAGAIN): openat2(2). The monitor tries as often.
 */
const openTriesMax = 128;

/** openat2(2). @returns an fd, always close-on-exec. */
export function openat2(dir: number, path: string, options: { flags: number; mode?: number; resolve: number }): number {
  how.writeBigUInt64LE(BigInt(options.flags | O_CLOEXEC), 0);
  how.writeBigUInt64LE(BigInt(options.mode ?? 0), 8);
  how.writeBigUInt64LE(BigInt(options.resolve), 16);
  let result: number | bigint;
  let tries = 0;
  do result = c_openat2(SYS_openat2, dir, path, how, how.length);
  while (result < 0 && koffi.errno() === errnoByName['EAGAIN'] && ++tries < openTriesMax);
  return checked(result, () => `open ${path}`);
}

/** fstatfs(2). @returns the type of an fd's file system: a magic number of include/uapi/linux/magic.h. */
export function fileSystemType(fd: number): number {
  // struct statfs starts with the type, a long. It has 120 bytes.
  const buffer = Buffer.alloc(256);
  checked(c_fstatfs(fd, buffer), () => `identify the file system of fd ${fd}`);
  return Number(buffer.readBigInt64LE(0));
}

/** close(2). Errors are ignored: on Linux the fd is closed even after EINTR. */
export function close(fd: number): void {
  c_close(fd);
}

/** pipe2(2) with O_CLOEXEC and two blocking ends, for programs. @returns [read end, write end]. */
export function programPipe(): [number, number] {
  const fds = Buffer.alloc(8);
  checked(c_pipe2(fds, O_CLOEXEC), () => 'create a pipe');
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/** Creates a pipe with a non-blocking read end, for the daemon. @returns [read end, write end]. */
export function pipe(): [number, number] {
  const [reader, writer] = programPipe();
  checked(c_fcntl(reader, F_SETFL, O_NONBLOCK), () => 'make a pipe non-blocking');
  return [reader, writer];
}

const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;

/** socketpair(2) with message boundaries (SOCK_SEQPACKET). The first end is non-blocking, for the daemon. */
export function packetSockets(): [number, number] {
  const fds = Buffer.alloc(8);
  checked(c_socketpair(AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, fds), () => 'create a socket pair');
  const [ours, theirs] = [fds.readInt32LE(0), fds.readInt32LE(4)];
  checked(c_fcntl(ours, F_SETFL, O_NONBLOCK), () => 'make a socket non-blocking');
  return [ours, theirs];
}

const MFD = { CLOEXEC: 0x1, ALLOW_SEALING: 0x2, NOEXEC_SEAL: 0x8, EXEC: 0x10 } as const;
const F_ADD_SEALS = 1033;
/** include/uapi/linux/fcntl.h: no further seals, no shrinking, no growing, no writing. */
const contentSeals = 0x1 | 0x2 | 0x4 | 0x8;
/** Linux 6.3: no change of the execute bits. */
const F_SEAL_EXEC = 0x20;

/**
 * memfd_create(2): creates an anonymous file that can be sealed, with close-on-exec.
 *
 * @param use a program can be executed, unless the sysctl vm.memfd_noexec is 2 (EACCES); data cannot. Kernels before 6.3 do not know the difference.
 */
export function memfd(name: string, use: 'data' | 'program' = 'data'): number {
  const flags = MFD.CLOEXEC | MFD.ALLOW_SEALING;
  const create = (more: number) => checked(c_memfd_create(name, flags | more), () => `create memfd ${name}`);
  return unlessUnknown(
    () => create(use === 'program' ? MFD.EXEC : MFD.NOEXEC_SEAL),
    () => create(0),
  );
}

/** Seals a memfd against writing, growing, shrinking, a change of its execute bits, and further seals (fcntl(2) F_ADD_SEALS). */
export function sealMemfd(fd: number): void {
  const seal = (seals: number) => checked(c_fcntl(fd, F_ADD_SEALS, seals), () => `seal memfd ${fd}`);
  unlessUnknown(
    () => seal(contentSeals | F_SEAL_EXEC),
    () => seal(contentSeals),
  );
}

/** Calls the second function if the kernel does not know a flag of the first. */
function unlessUnknown(newer: () => number, older: () => number): number {
  try {
    return newer();
  } catch (error) {
    if (isErrno(error, 'EINVAL')) return older();
    throw error;
  }
}

/** pidfd_open(2). @throws ESRCH if the process does not exist. */
export function pidfdOpen(pid: number): number {
  return checked(c_pidfd(SYS_pidfd_open, pid, 0, 0, 0), () => `open process ${pid}`);
}

/** pidfd_send_signal(2). @throws ESRCH if the process has ended. */
export function pidfdSendSignal(pidfd: number, signal: number): void {
  checked(c_pidfd(SYS_pidfd_send_signal, pidfd, signal, 0, 0), () => `send signal ${signal}`);
}

/** syncfs(2): writes the file system of `fd` to disk. Blocks. */
export function syncfs(fd: number): void {
  checked(c_syncfs(fd), () => `sync the file system of fd ${fd}`);
}
