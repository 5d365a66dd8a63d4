/**
 * A sandbox's namespaces without a process: made on the daemon's main thread, pinned by bind mounts, and left again, in one synchronous section.
 *
 * Other threads of the process never leave the host's namespaces, for unshare(2) and setns(2) change the calling thread alone.
 */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { checked, isErrno, libc } from '../call/ffi.ts';
import { bind, unmount } from '../mount/mounts.ts';

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
  /** Which to make, and the file that each is pinned on: an empty one is made there. */
  readonly pins: Readonly<Partial<Record<NamespaceKind, string>>>;
  /** Set when a uts namespace is made. */
  readonly hostname: string;
  /** By dotted or slashed name; written from within the new namespaces. */
  readonly sysctls: Readonly<Record<string, string>>;
};

/**
 * Makes namespaces and pins them; loopback is up in a new net namespace. Undone by unpinNamespaces().
 *
 * Blocks for about a millisecond. Ends the process when it cannot return to the host's namespaces: nothing done after that would be right.
 * @throws {SyscallError | Error} naming the step; what was pinned until then stays pinned.
 */
export function createNamespaces(request: NamespaceRequest): void {
  const kinds = (Object.keys(request.pins) as NamespaceKind[]).sort();
  if (kinds.length === 0) return;
  const flags = kinds.reduce((all, kind) => all | flagOf[kind], 0);
  const home = kinds.map((kind) => ({ kind, fd: openSync(`/proc/thread-self/ns/${kind}`, 'r') }));
  try {
    checked(c_unshare(flags), () => `making namespaces ${kinds.join(', ')}`);
    try {
      prepare(request);
      for (const kind of kinds) pin(kind, request.pins[kind] as string);
    } finally {
      for (const { kind, fd } of home) goBack(kind, fd);
    }
  } finally {
    for (const { fd } of home) closeSync(fd);
  }
}

function prepare(request: NamespaceRequest): void {
  if (request.pins.uts !== undefined) {
    const length = Buffer.byteLength(request.hostname);
    checked(c_sethostname(request.hostname, length), () => `setting the hostname ${request.hostname}`);
  }
  if (request.pins.net !== undefined) raiseLoopback();
  for (const [name, value] of Object.entries(request.sysctls)) writeSysctl(name, value);
}

/** Both forms are in use: dots, or slashes where a part has a dot of its own (sysctl(8)). */
function writeSysctl(name: string, value: string): void {
  const path = name.includes('/') ? name : name.replaceAll('.', '/');
  try {
    // /proc/sys shows the namespaces of the calling thread, so this must not go to Node's thread pool.
    writeFileSync(`/proc/sys/${path}`, value);
  } catch (error) {
    throw new Error(`setting sysctl ${name} to ${value}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

const AF_INET = 2;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 1;

function raiseLoopback(): void {
  const socket = checked(c_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), () => 'opening a socket for the loopback interface');
  try {
    // struct ifreq: 16 bytes of name, then the flags.
    const request = Buffer.alloc(40);
    request.write('lo', 0, 'latin1');
    request.writeInt16LE(IFF_UP, 16);
    checked(c_ioctl(socket, SIOCSIFFLAGS, request), () => 'bringing the loopback interface up');
  } finally {
    closeSync(socket);
  }
}

function pin(kind: NamespaceKind, path: string): void {
  pinNamespace(`/proc/thread-self/ns/${kind}`, path);
}

/** Pins a namespace, which a file below /proc names, on an empty file that is made for it. Undone by unpinNamespaces(). */
export function pinNamespace(source: string, path: string): void {
  closeSync(openSync(path, 'a', 0o444));
  bind(source, path);
}

function goBack(kind: NamespaceKind, fd: number): void {
  if (c_setns(fd, flagOf[kind]) === 0) return;
  process.stderr.write(`berth: cannot return to the host's ${kind} namespace; ending at once\n`);
  process.abort();
}

/**
 * Runs `visit` in each of the pinned net namespaces and comes back, in one synchronous section: some 40 us each, so give it a bounded number.
 *
 * @returns what `visit` gave, in order; null for a namespace that is gone. Ends the process as createNamespaces() does.
 */
export function visitNetNamespaces<Result>(pins: readonly string[], visit: () => Result): (Result | null)[] {
  if (pins.length === 0) return [];
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    return pins.map((pin) => (enterNet(pin) ? visit() : null));
  } finally {
    goBack('net', home);
    closeSync(home);
  }
}

/** @returns false when no net namespace is pinned there any more. */
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

/** Lets pinned namespaces go; with the last process in them they end. Idempotent. The files stay. */
export function unpinNamespaces(pins: readonly string[]): void {
  for (const path of pins) {
    // A crash between two pins can leave two mounts on one file.
    while (unmount(path));
  }
}
