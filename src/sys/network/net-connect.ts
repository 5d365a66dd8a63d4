/**
 * Connects to ports in a network namespace, without a process in it. A socket belongs to the namespace in which it was created, so the daemon's thread
 * enters the namespace only to create the socket. Everything that can block happens outside.
 */
import { Socket } from 'node:net';
import { BerthError } from '../../lib/errors.ts';
import { watchFd } from '../call/fd-streams.ts';
import { checked, isErrno, libc, SyscallError } from '../call/ffi.ts';
import { close } from '../call/syscalls.ts';
import { visitNetNamespaces } from '../process/namespaces.ts';

const c_socket = libc.func('int socket(int domain, int type, int protocol)');
const c_connect = libc.func('int connect(int fd, void *address, uint length)');
const c_getsockopt = libc.func('int getsockopt(int fd, int level, int name, void *value, void *length)');

const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_ERROR = 4;

type Family = { readonly domain: number; readonly host: string; readonly address: (port: number) => Buffer };

/** The loopback addresses, as struct sockaddr_in and sockaddr_in6. */
const loopbacks: readonly Family[] = [
  {
    domain: 2,
    host: '127.0.0.1',
    address: (port) => {
      const bytes = Buffer.alloc(16);
      bytes.writeUInt16LE(2, 0);
      bytes.writeUInt16BE(port, 2);
      bytes.set([127, 0, 0, 1], 4);
      return bytes;
    },
  },
  {
    domain: 10,
    host: '[::1]',
    address: (port) => {
      const bytes = Buffer.alloc(28);
      bytes.writeUInt16LE(10, 0);
      bytes.writeUInt16BE(port, 2);
      bytes[23] = 1;
      return bytes;
    },
  },
];

/**
 * Connects to a TCP port on the loopback interface of a network namespace, with IPv4 and, if that fails, with IPv6.
 *
 * @param pin path of the pinned namespace; null for the host's.
 * @returns a connected socket with allowHalfOpen: the end of its input does not end its output.
 * @throws {SyscallError} the IPv4 error, e.g. ECONNREFUSED; {BerthError} DEADLINE_EXCEEDED, or FAILED_PRECONDITION if the namespace is gone.
 */
export async function connectLoopback(pin: string | null, port: number, timeoutMs: number): Promise<Socket> {
  let failure: unknown;
  for (const family of loopbacks) {
    try {
      return await connectTo(createSocket(pin, family), family, port, timeoutMs);
    } catch (error) {
      // Report the IPv4 error: the node may not have IPv6.
      failure ??= error;
    }
  }
  throw failure;
}

function createSocket(pin: string | null, { domain, host }: Family): number {
  const create = () => checked(c_socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), () => `create a socket for ${host}`);
  if (pin === null) return create();
  const [fd] = visitNetNamespaces([pin], create);
  if (fd === undefined || fd === null) throw new BerthError('FAILED_PRECONDITION', 'the network namespace no longer exists');
  return fd;
}

async function connectTo(fd: number, family: Family, port: number, timeoutMs: number): Promise<Socket> {
  const attempt = `connect to ${family.host}:${port}`;
  const address = family.address(port);
  try {
    try {
      checked(c_connect(fd, address, address.length), () => attempt);
    } catch (error) {
      if (!isErrno(error, 'EINPROGRESS')) throw error;
      await connected(fd, attempt, timeoutMs);
    }
    return new Socket({ fd, allowHalfOpen: true });
  } catch (error) {
    close(fd);
    throw error;
  }
}

function connected(fd: number, attempt: string, timeoutMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      watch.end();
      finish();
    };
    const onReady = () => {
      const errno = pendingError(fd);
      settle(errno === 0 ? resolve : () => reject(new SyscallError(attempt, errno)));
    };
    const watch = watchFd(fd, { writable: true, disconnect: true }, onReady);
    const timer = setTimeout(
      () => settle(() => reject(new BerthError('DEADLINE_EXCEEDED', `${attempt}: no answer within ${timeoutMs / 1000} s`))),
      timeoutMs,
    );
    watch.start();
  });
}

/** Returns the errno of a non-blocking connection; 0 if it is established: connect(2), EINPROGRESS. */
function pendingError(fd: number): number {
  const [value, length] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32LE(4, 0);
  checked(c_getsockopt(fd, SOL_SOCKET, SO_ERROR, value, length), () => 'read the result of a connection');
  return value.readInt32LE(0);
}
