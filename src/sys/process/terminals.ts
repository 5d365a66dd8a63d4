/**
 * Terminals that another process has opened: getting one through a socket, and its size.
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

/** A pair of connected unix sockets, close-on-exec, that keep messages apart. */
export function socketPair(): [number, number] {
  const fds = Buffer.alloc(8);
  checked(c_socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), () => 'making a pair of sockets');
  return [fds.readInt32LE(0), fds.readInt32LE(4)];
}

/**
 * Takes the fd that came with the next message, which must be there already. Layout: struct msghdr and struct cmsghdr of 64-bit machines.
 * @returns null when the message brought none. @throws {SyscallError} EAGAIN without a message.
 */
export function receiveFd(socket: number): number | null {
  // Larger than what the engine keeps inside of its heap, where things move.
  const [data, control, vector, message] = [Buffer.alloc(256), Buffer.alloc(256), Buffer.alloc(256), Buffer.alloc(256)];
  vector.writeBigUInt64LE(koffi.address(data), 0);
  vector.writeBigUInt64LE(BigInt(data.length), 8);
  message.writeBigUInt64LE(koffi.address(vector), 16);
  message.writeBigUInt64LE(1n, 24);
  message.writeBigUInt64LE(koffi.address(control), 32);
  message.writeBigUInt64LE(24n, 40);
  checked(c_recvmsg(socket, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC), () => 'receiving a terminal');
  const hasFd = message.readBigUInt64LE(40) >= 20n && control.readInt32LE(8) === SOL_SOCKET && control.readInt32LE(12) === SCM_RIGHTS;
  return hasFd ? control.readInt32LE(16) : null;
}

/** ioctl_tty(2) TIOCSWINSZ: the programs of the terminal get SIGWINCH. */
export function setTerminalSize(master: number, rows: number, columns: number): void {
  const size = Buffer.alloc(8);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(columns, 2);
  checked(c_ioctl(master, TIOCSWINSZ, size), () => `setting the size of a terminal to ${columns}x${rows}`);
}
