/**
 * Terminals opened by another process: receives one through a socket, and sets its size.
 */
import koffi from 'koffi';
import { checked, libc } from '../call/ffi.ts';

const c_socketpair = libc.func('int socketpair(int domain, int type, int protocol, void *fds)');
const c_recvmsg = libc.func('long recvmsg(int fd, void *message, int flags)');
const c_ioctl = libc.func('int ioctl(int fd, ulong request, void *argument)');

const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_CMSG_CLOEXEC = 0x40000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const TIOCSWINSZ = 0x5414;

/** Creates a pair of connected Unix sockets with message boundaries (SOCK_SEQPACKET) and close-on-exec. */
export function socketPair(): [number, number] {
  const fds = Buffer.alloc(8);
  checked(c_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), () => 'create a socket pair');
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/**
 * Receives an fd with the next message, which must have arrived. Layout: struct msghdr and struct cmsghdr of 64-bit machines.
 * @returns null if the message has no fd. @throws {SyscallError} EAGAIN if there is no message.
 */
export function receiveFd(socket: number): number | null {
  // Larger than V8's on-heap buffers, which the garbage collector may move.
  const [data, control, vector, message] = [Buffer.alloc(256), Buffer.alloc(256), Buffer.alloc(256), Buffer.alloc(256)];
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(BigInt(data.length), 8);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(24n, 40);
  checked(c_recvmsg(socket, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC), () => 'receive a terminal');
  const hasFd = message.readBigUInt64LE(40) >= 20n && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  return hasFd ? control.readInt32LE(16) : null;
}

/** Sets the size of a terminal with ioctl_tty(2) TIOCSWINSZ: the foreground process group gets SIGWINCH. */
export function setTerminalSize(master: number, rows: number, columns: number): void {
  const size = Buffer.alloc(8);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(columns, 2);
  checked(c_ioctl(master, TIOCSWINSZ, size), () => `set the size of a terminal to ${columns}x${rows}`);
}
