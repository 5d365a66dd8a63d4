/**
 * Namespaces of a pod sandbox without a process: the daemon's main thread creates them, pins them with bind mounts, and leaves them again, in one
 * synchronous section.
 *
 * Other threads of the process stay in the host's namespaces, because unshare(2) and setns(2) change only the calling thread.
 */
import { closeSync, openSync } from 'node:fs';
import { checked, isErrno, libc } from '../call/ffi.ts';
import { bind, unmount } from '../mount/mounts.ts';
import { type Sysctl, writeSysctls } from './sysctls.ts';

const c_unshare = libc.func('int unshare(int flags)');
const c_setns = libc.func('int setns(int fd, int flags)');
const c_sethostname = libc.func('int sethostname(const char *name, size_t length)');
const c_socket = libc.func('int socket(int domain, int type, int protocol)');
const c_ioctl = libc.func('int ioctl(int fd, ulong request, void *argument)');

const CLONE_NEWUTS = 0x04000000;
const CLONE_NEWIPC = 0x08000000;
const CLONE_NEWNET = 0x40000000;

export type NamespaceKind = 'net' | 'ipc' | 'uts';

const flagOf: Readonly<Record<NamespaceKind, number>> = { net: CLONE_NEWNET, ipc: CLONE_NEWIPC, uts: CLONE_NEWUTS };

export type NamespaceRequest = {
  /** The namespaces to create, with the path on which each is pinned: an empty file is created there. */
  readonly pins: Readonly<Partial<Record<NamespaceKind, string>>>;
  /** Set if a uts namespace is created. */
  readonly hostname: string;
  /** Written from within the new namespaces. */
  readonly sysctls: readonly Sysctl[];
};

/**
 * Creates and pins namespaces; the loopback interface of a new network namespace is up. unpinNamespaces() undoes it.
 *
 * Blocks for about a millisecond. Aborts the process if it cannot return to the host's namespaces, because all later work would be wrong.
 * @throws {SyscallError | Error} with the failed step; namespaces that were already pinned stay pinned.
 */
export function createNamespaces(request: NamespaceRequest): void {
  const kinds = (Object.keys(request.pins) as NamespaceKind[]).sort();
  if (kinds.length === 0) return;
  const flags = kinds.reduce((all, kind) => all | flagOf[kind], 0);
  const home = kinds.map((kind) => ({ kind, fd: openSync(`/proc/thread-self/ns/${kind}`, 'r') }));
  try {
    checked(c_unshare(flags), () => `create namespaces ${kinds.join(', ')}`);
    try {
      prepare(request);
      for (const kind of kinds) pin(kind, request.pins[kind] as string);
    } finally {
      for (const { kind, fd } of home) returnTo(kind, fd);
    }
  } finally {
    for (const { fd } of home) closeSync(fd);
  }
}

function prepare(request: NamespaceRequest): void {
  if (request.pins.uts !== undefined) {
    const length = Buffer.byteLength(request.hostname);
    checked(c_sethostname(request.hostname, length), () => `set the hostname ${request.hostname}`);
  }
  if (request.pins.net !== undefined) raiseLoopback();
  writeSysctls(request.sysctls);
}

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;

function raiseLoopback(): void {
  const socket = checked(c_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), () => 'create a socket for the loopback interface');
  try {
    // struct ifreq: 16 bytes of name, then the flags.
    const request = Buffer.alloc(40);
    request.write('lo', 0, 'latin1');
    request.writeInt16LE(IFF_UP, 16);
    checked(c_ioctl(socket, SIOCSIFFLAGS, request), () => 'bring the loopback interface up');
  } finally {
    closeSync(socket);
  }
}

function pin(kind: NamespaceKind, path: string): void {
  pinNamespace(`/proc/thread-self/ns/${kind}`, path);
}

/** Pins a namespace, given as a file below /proc, on an empty file that it creates. unpinNamespaces() undoes it. */
export function pinNamespace(source: string, path: string): void {
  closeSync(openSync(path, 'a', 0o444));
  bind(source, path);
}

function returnTo(kind: NamespaceKind, fd: number): void {
  if (c_setns(fd, flagOf[kind]) === 0) return;
  process.stderr.write(`berth: cannot return to the host's ${kind} namespace; aborting\n`);
  process.abort();
}

/**
 * Runs `visit` in each of the pinned network namespaces, in one synchronous section. Takes about 40 us each: pass a bounded number of them.
 * Aborts the process like createNamespaces().
 *
 * @returns the results of `visit`, in order; null for a namespace that is gone.
 */
export function visitNetNamespaces<Result>(pins: readonly string[], visit: () => Result): (Result | null)[] {
  if (pins.length === 0) return [];
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    return pins.map((pin) => (enterNet(pin) ? visit() : null));
  } finally {
    returnTo('net', home);
    closeSync(home);
  }
}

/** @returns false if no network namespace is pinned on the path. */
function enterNet(pin: string): boolean {
  let fd: number;
  try {
    fd = openSync(pin, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
  try {
    return c_setns(fd, CLONE_NEWNET) === 0;
  } finally {
    closeSync(fd);
  }
}

/** Unpins namespaces: they end with their last process. Idempotent. The files remain. */
export function unpinNamespaces(pins: readonly string[]): void {
  for (const path of pins) {
    // After a crash there may be two mounts on one file.
    while (unmount(path));
  }
}
