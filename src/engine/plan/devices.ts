/**
 * Plans a container's /dev: standard device nodes, links, terminals, and requested devices.
 *
 * Pure. Which devices a process may open is decided by its cgroup: device-rules.ts.
 */
import { AT, FS_MAGIC, IOCTL, MOUNT_ATTR, O, RESOLVE, S_IF } from './abi.ts';
import { inRoot, makeInRoot, openInRoot, rootReg } from './enter-rootfs.ts';
import { cloneOf, moveOnto, normalPath, type RootMount } from './mounts.ts';
import type { Op, Reg } from './plan.ts';

/** A device node or a FIFO. */
export type DeviceNode = {
  /** The path on the host. */
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

/** Name, major and minor number: Documentation/admin-guide/devices.txt of the kernel. */
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

/** Group `tty` of all common distributions, which grantpt(3) assigns to terminals. */
const ttyGid = '5';

const devReg: Reg = 'dev';

/**
 * Returns the mounts of a default /dev.
 *
 * @param shmReg the /dev/shm of the sandbox or the host.
 * @param mqueueReg the host's /dev/mqueue, if the container cannot mount its own; null: the host has none.
 */
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

/**
 * Returns the operations that create the nodes of a default /dev. They run after `dev` is attached, with umask 0.
 *
 * @param taken paths to skip, because something is mounted on them, for example a node of the host.
 */
export function planStandardDevices(taken: ReadonlySet<string>): Op[] {
  return withoutTaken(standardNodes, ([name]) => name, taken).map(
    ([name, major, minor]): Op => ({
      call: 'mknodat',
      dir: devReg,
      path: name,
      mode: S_IF.IFCHR | 0o666,
      dev: deviceNumber(major, minor),
      note: `create device /dev/${name}`,
    }),
  );
}

/** Returns the operations that create the links of a default /dev. They run after `dev` is attached. @param taken as for planStandardDevices(). */
export function planDeviceLinks(taken: ReadonlySet<string>): Op[] {
  return withoutTaken(links, ([, name]) => name, taken).map(
    ([target, path]): Op => ({ call: 'symlinkat', target, dir: devReg, path, note: `create link /dev/${path}` }),
  );
}

function withoutTaken<Entry>(entries: readonly Entry[], nameOf: (entry: Entry) => string, taken: ReadonlySet<string>): Entry[] {
  return entries.filter((entry) => !taken.has(`/dev/${nameOf(entry)}`));
}

/** The nodes of a default /dev. The paths are the same in the container and on the host. */
export const standardDevicePaths: readonly string[] = standardNodes.map(([name]) => `/dev/${name}`);

/** Returns a bind mount of a device of the host: in a user namespace no device can be created. `reg` is a clone of the host's node. */
export function deviceMount(path: string, reg: Reg, replacesLink = false): RootMount {
  return { target: path, isDirectory: false, source: { kind: 'inherited', reg }, attributes: 0, isRecursive: false, replacesLink };
}

/** Returns the `dev_t` that mknod(2) takes: makedev(3). */
function deviceNumber(major: number, minor: number): bigint {
  const [ma, mi] = [BigInt(major), BigInt(minor)];
  return ((ma & 0xfffff000n) << 32n) | ((ma & 0xfffn) << 8n) | ((mi & 0xffffff00n) << 12n) | (mi & 0xffn);
}

/** The number of the null device. */
export const nullDevice = deviceNumber(1, 3);

const typeBits = { char: S_IF.IFCHR, block: S_IF.IFBLK, fifo: S_IF.IFIFO } as const;

/** Returns the operations that create requested devices. A node replaces the file that the image has at the same path. */
export function planDeviceNodes(nodes: readonly DeviceNode[]): Op[] {
  return nodes.flatMap((node, i): Op[] => {
    const path = normalPath(node.path);
    const slash = path.lastIndexOf('/');
    const parent = `device${i}@`;
    const name = path.slice(slash + 1);
    return [
      ...makeInRoot(path.slice(0, slash) || '/', 'directory', parent),
      { call: 'unlinkat', dir: parent, path: name, flags: 0, tolerate: ['ENOENT'], note: `remove ${path} of the image` },
      {
        call: 'mknodat',
        dir: parent,
        path: name,
        mode: typeBits[node.type] | node.mode,
        dev: deviceNumber(node.major, node.minor),
        note: `create device ${path}`,
      },
      { call: 'fchownat', dir: parent, path: name, uid: node.uid, gid: node.gid, flags: AT.SYMLINK_NOFOLLOW, note: `set the owner of ${path}` },
      { call: 'close', fd: parent, note: `close the directory of ${path}` },
    ];
  });
}

/** Opens /dev/null in the container for stdin. A checkpoint could neither save nor restore a file of the host. */
export function openNull(out: Reg): Op[] {
  return [
    openInRoot('/dev/null', 'null@', { isDirectory: false, note: 'open /dev/null' }),
    { call: 'expect_device', fd: 'null@', device: nullDevice, note: 'check that /dev/null is the null device' },
    { call: 'close', fd: 'null@', note: 'close /dev/null' },
    { call: 'openat2', dir: rootReg, path: '/dev/null', how: { flags: O.CLOEXEC, resolve: inRoot }, out, note: 'open /dev/null for stdin' },
  ];
}

/**
 * Returns the operations that create a terminal in the container's devpts and make it the controlling terminal and /dev/console.
 * The monitor gets the master. They run after setsid and after all mounts.
 *
 * @param uid owner of the terminal, so that programs of this user can open it by name.
 */
export function planTerminal(uid: number): Op[] {
  return [
    ...openTerminal(rootReg, inRoot, uid),
    ...openConsole(),
    cloneOf('tty', 'console', 'prepare the mount of /dev/console'),
    moveOnto('console', 'console@', 'mount the terminal on /dev/console'),
    { call: 'sendterminal', master: 'terminal', note: 'send the terminal to the monitor' },
    setControllingTerminal,
  ];
}

/**
 * Returns the operations that create a terminal for an exec. The daemon gets the master through `socket`.
 * They run after setsid and in the container's namespaces. They fail if the container has replaced its ptmx.
 */
export function planExecTerminal(uid: number, socket: Reg): Op[] {
  return [
    ...openTerminal('cwd', RESOLVE.NO_MAGICLINKS, uid),
    { call: 'sendfd', socket, fd: 'terminal', note: 'send the terminal to the daemon' },
    setControllingTerminal,
  ];
}

/** Creates /dev/console if it is missing. A link there could lead the mount to any file, so it is refused. */
function openConsole(): Op[] {
  const how = { flags: O.PATH | O.CLOEXEC, resolve: inRoot | RESOLVE.NO_SYMLINKS };
  return [
    ...makeInRoot('/dev', 'directory', 'console.dir'),
    {
      call: 'mknodat',
      dir: 'console.dir',
      path: 'console',
      mode: S_IF.IFREG | 0o644,
      dev: 0,
      tolerate: ['EEXIST'],
      note: 'create file /dev/console',
    },
    { call: 'openat2', dir: 'console.dir', path: 'console', how, out: 'console@', note: 'open /dev/console' },
    { call: 'close', fd: 'console.dir', note: 'close the directory of /dev/console' },
    { call: 'refuse_fs', fd: 'console@', magic: FS_MAGIC.PROC, note: 'check that /dev/console is not in a proc file system' },
    { call: 'refuse_fs', fd: 'console@', magic: FS_MAGIC.SYSFS, note: 'check that /dev/console is not in a sysfs file system' },
  ];
}

/** The master is opened in a checked devpts, without following a link or crossing a mount: another file there could be opened, but not checked. */
function openTerminal(dir: Reg, resolve: number, uid: number): Op[] {
  const flags = O.RDWR | O.NOCTTY | O.CLOEXEC;
  const directory = { flags: O.PATH | O.DIRECTORY | O.CLOEXEC, resolve };
  const inside = RESOLVE.BENEATH | RESOLVE.NO_XDEV | RESOLVE.NO_SYMLINKS;
  return [
    { call: 'openat2', dir, path: '/dev/pts', how: directory, out: 'pts', note: 'open /dev/pts' },
    { call: 'expect_fs', fd: 'pts', magic: FS_MAGIC.DEVPTS, note: 'check that /dev/pts is a devpts file system' },
    { call: 'openat2', dir: 'pts', path: 'ptmx', how: { flags, resolve: inside }, out: 'terminal', note: 'open /dev/pts/ptmx' },
    { call: 'close', fd: 'pts', note: 'close /dev/pts' },
    { call: 'ioctl_struct', fd: 'terminal', request: IOCTL.TIOCSPTLCK, struct: Buffer.alloc(4), note: 'unlock the terminal' },
    { call: 'ioctl', fd: 'terminal', request: IOCTL.TIOCGPTPEER, value: flags, out: 'tty', note: 'open the terminal' },
    { call: 'fchown', fd: 'tty', uid, gid: Number(ttyGid), note: 'set the owner of the terminal' },
  ];
}

const setControllingTerminal: Op = { call: 'ioctl', fd: 'tty', request: IOCTL.TIOCSCTTY, value: 0, note: 'set the controlling terminal' };
