/**
 * Plans a container's /dev: the nodes every program expects, the links, terminals, and the devices that were asked for.
 *
 * Pure. Which of them a process may open is the cgroup's to say: device-rules.ts.
 */
import { AT, IOCTL, MOUNT_ATTR, O, RESOLVE, S_IF } from './abi.ts';
import { cloneOf, moveOnto, normalPath, type RootMount } from './mounts.ts';
import type { Op, Reg } from './plan.ts';
import { inRoot, makeInRoot, rootReg } from './rootfs.ts';

/** A device special file, or what stands for one. */
export type DeviceNode = {
  /** Where it is on the host. */
  readonly hostPath: string;
  /** Absolute, inside the container. */
  readonly path: string;
  readonly type: 'char' | 'block' | 'fifo';
  readonly major: number;
  readonly minor: number;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
};

/** Numbers from the kernel's admin-guide/devices.txt. */
const standardNodes = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
] as const;

const links = [
  ['/proc/self/fd', 'fd'],
  ['/proc/self/fd/0', 'stdin'],
  ['/proc/self/fd/1', 'stdout'],
  ['/proc/self/fd/2', 'stderr'],
  ['pts/ptmx', 'ptmx'],
] as const;

/** Group `tty` of Debian, Red Hat and the rest: grantpt(3) gives terminals to it. */
const ttyGid = '5';

const devReg: Reg = 'dev';

/** The mounts of a default /dev. `shmReg` is the sandbox's (or the host's) /dev/shm; `mqueueReg` the host's /dev/mqueue where none may be made, null: it has none. */
export function devMounts(shmReg: Reg, mqueueReg?: Reg | null): RootMount[] {
  const quiet = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC;
  return [
    {
      target: '/dev',
      isDirectory: true,
      source: {
        kind: 'new',
        type: 'tmpfs',
        options: [
          ['source', 'tmpfs'],
          ['mode', '755'],
          ['size', '65536k'],
        ],
      },
      attributes: MOUNT_ATTR.NOSUID | MOUNT_ATTR.STRICTATIME,
      isRecursive: false,
      keepAs: devReg,
    },
    {
      target: '/dev/pts',
      isDirectory: true,
      source: {
        kind: 'new',
        type: 'devpts',
        options: [
          ['source', 'devpts'],
          ['newinstance', true],
          ['ptmxmode', '0666'],
          ['mode', '0620'],
          ['gid', ttyGid],
        ],
      },
      attributes: quiet,
      isRecursive: false,
    },
    ...(mqueueReg === null ? [] : [mqueueMount(mqueueReg)]),
    { target: '/dev/shm', isDirectory: true, source: { kind: 'inherited', reg: shmReg }, attributes: 0, isRecursive: false },
  ];
}

function mqueueMount(hostReg: Reg | undefined): RootMount {
  const attributes = MOUNT_ATTR.NOSUID | MOUNT_ATTR.NOEXEC | MOUNT_ATTR.NODEV;
  const source: RootMount['source'] =
    hostReg === undefined ? { kind: 'new', type: 'mqueue', options: [['source', 'mqueue']] } : { kind: 'inherited', reg: hostReg };
  return { target: '/dev/mqueue', isDirectory: true, source, attributes, isRecursive: false };
}

/** The nodes of a default /dev. To run once `dev` is attached, with umask 0. @param taken paths with a mount of their own, of a host's node, say. */
export function planStandardDevices(taken: ReadonlySet<string>): Op[] {
  return withoutTaken(standardNodes, ([name]) => name, taken).map(
    ([name, major, minor]): Op => ({
      call: 'mknodat',
      dir: devReg,
      path: name,
      mode: S_IF.IFCHR | 0o666,
      dev: deviceNumber(major, minor),
      note: `making device /dev/${name}`,
    }),
  );
}

/** The links of a default /dev. To run once `dev` is attached. @param taken as for planStandardDevices(). */
export function planDeviceLinks(taken: ReadonlySet<string>): Op[] {
  return withoutTaken(links, ([, name]) => name, taken).map(
    ([target, path]): Op => ({ call: 'symlinkat', target, dir: devReg, path, note: `linking /dev/${path}` }),
  );
}

function withoutTaken<Entry>(entries: readonly Entry[], nameOf: (entry: Entry) => string, taken: ReadonlySet<string>): Entry[] {
  return entries.filter((entry) => !taken.has(`/dev/${nameOf(entry)}`));
}

/** The nodes of a default /dev, by their paths in the container and on the host. */
export const standardDevicePaths: readonly string[] = standardNodes.map(([name]) => `/dev/${name}`);

/** A device of the host's as a mount: in a user namespace none can be made. `reg` is a copy of the host's mount of the node. */
export function deviceMount(path: string, reg: Reg): RootMount {
  return { target: path, isDirectory: false, source: { kind: 'inherited', reg }, attributes: 0, isRecursive: false };
}

/** `dev_t` as mknod(2) takes it: makedev(3). */
function deviceNumber(major: number, minor: number): bigint {
  const [ma, mi] = [BigInt(major), BigInt(minor)];
  return ((ma & 0xfffff000n) << 32n) | ((ma & 0xfffn) << 8n) | ((mi & 0xffffff00n) << 12n) | (mi & 0xffn);
}

const typeBits = { char: S_IF.IFCHR, block: S_IF.IFBLK, fifo: S_IF.IFIFO } as const;

/** Devices that were asked for, wherever they are to be; the node replaces one of the image. */
export function planDeviceNodes(nodes: readonly DeviceNode[]): Op[] {
  return nodes.flatMap((node, i): Op[] => {
    const path = normalPath(node.path);
    const slash = path.lastIndexOf('/');
    const parent = `device${i}@`;
    const name = path.slice(slash + 1);
    return [
      ...makeInRoot(path.slice(0, slash) || '/', 'directory', parent),
      { call: 'unlinkat', dir: parent, path: name, flags: 0, tolerate: ['ENOENT'], note: `removing the image's ${path}` },
      {
        call: 'mknodat',
        dir: parent,
        path: name,
        mode: typeBits[node.type] | node.mode,
        dev: deviceNumber(node.major, node.minor),
        note: `making device ${path}`,
      },
      { call: 'fchownat', dir: parent, path: name, uid: node.uid, gid: node.gid, flags: AT.SYMLINK_NOFOLLOW, note: `giving ${path} its owner` },
      { call: 'close', fd: parent, note: `closing the directory of ${path}` },
    ];
  });
}

/**
 * A terminal of the container's own devpts as its input, output, controlling terminal and /dev/console; the monitor gets the other side.
 * To run after setsid and after all mounts.
 *
 * @param uid gets the terminal, so that a program of this user can open it again by name.
 */
export function planTerminal(uid: number): Op[] {
  return [
    ...openTerminal(rootReg, inRoot, uid),
    ...makeInRoot('/dev/console', 'file', 'console@'),
    cloneOf('tty', 'console', 'preparing /dev/console'),
    moveOnto('console', 'console@', 'mounting the terminal on /dev/console'),
    { call: 'sendterminal', master: 'terminal', note: 'handing the terminal to the monitor' },
    controlTerminal,
  ];
}

/**
 * A terminal for a process that runs beside a container's own: `socket` takes the other side to the daemon.
 * To run after setsid and in the container's namespaces. A container may have replaced its ptmx: then this fails.
 */
export function planExecTerminal(uid: number, socket: Reg): Op[] {
  return [
    ...openTerminal('cwd', RESOLVE.NO_MAGICLINKS, uid),
    { call: 'sendfd', socket, fd: 'terminal', note: 'handing the terminal to the daemon' },
    controlTerminal,
  ];
}

function openTerminal(dir: Reg, resolve: number, uid: number): Op[] {
  const flags = O.RDWR | O.NOCTTY | O.CLOEXEC;
  return [
    { call: 'openat2', dir, path: '/dev/pts/ptmx', how: { flags, resolve }, out: 'terminal', note: 'opening /dev/pts/ptmx' },
    { call: 'ioctl_struct', fd: 'terminal', request: IOCTL.TIOCSPTLCK, struct: Buffer.alloc(4), note: 'unlocking the terminal' },
    { call: 'ioctl', fd: 'terminal', request: IOCTL.TIOCGPTPEER, value: flags, out: 'tty', note: 'opening the terminal' },
    { call: 'fchown', fd: 'tty', uid, gid: Number(ttyGid), note: 'giving the terminal to its user' },
  ];
}

const controlTerminal: Op = { call: 'ioctl', fd: 'tty', request: IOCTL.TIOCSCTTY, value: 0, note: 'making the terminal the controlling one' };
