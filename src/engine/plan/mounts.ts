/**
 * Plans the mounts in a container's root, and their attributes.
 *
 * Pure. Mounts are created before pivot_root and attached after it: in a user namespace, proc can be mounted only while another proc is visible.
 * They are attached to an fd of the target that was resolved inside the root, so that no link of an image can redirect a mount outside.
 */
import { AT, FS_MAGIC, FSOPEN, MOUNT_ATTR, MOVE_MOUNT, MS, OPEN_TREE } from './abi.ts';
import { makeInRoot } from './enter-rootfs.ts';
import type { Op, Reg } from './plan.ts';

export type RootMount = {
  /** Absolute, inside the container. */
  readonly target: string;
  /** If the target is missing, whether a directory or a file is created. */
  readonly isDirectory: boolean;
  readonly source:
    | { readonly kind: 'inherited'; readonly reg: Reg }
    | { readonly kind: 'new'; readonly type: string; readonly options: readonly (readonly [key: string, value: string | true])[] };
  /** MOUNT_ATTR bits. */
  readonly attributes: number;
  /** Whether `attributes` also apply to the mounts below. */
  readonly isRecursive: boolean;
  /** For an inherited tree; undefined: private. A clone without it would stay in the peer group of the host's mount. */
  readonly propagation?: typeof MS.PRIVATE | typeof MS.SLAVE | typeof MS.SHARED;
  /** Becomes read-only after all other mounts are attached, because some of them are attached inside it. */
  readonly isSealedLast?: boolean;
  /** Keeps the fd of the mount open in this register, for later operations. */
  readonly keepAs?: Reg;
  /** Whether a link of the image at the target is replaced by a file, because it leads into a volume, in which no file may be created. */
  readonly replacesLink?: boolean;
  /** Whether the mount shows the host's proc or sysfs, so that mounts below it may be on them. */
  readonly showsKernel?: boolean;
};

/** Sorts mounts so that parents come before their children, otherwise stably. Of two mounts on the same path only the later is kept. */
export function orderMounts(mounts: readonly RootMount[]): RootMount[] {
  const last = new Map(mounts.map((mount) => [normalPath(mount.target), mount]));
  return mounts.filter((mount) => last.get(normalPath(mount.target)) === mount).sort((a, b) => depth(a.target) - depth(b.target));
}

/** Returns the path without repeated and trailing slashes, `.` and `..`. */
export function normalPath(path: string): string {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return `/${parts.join('/')}`;
}

const depth = (path: string): number => normalPath(path).split('/').filter(Boolean).length;

export type MountOps = {
  /** Runs before the root is entered. */
  readonly make: Op[];
  /** Runs afterwards. */
  readonly attach: Op[];
  /** Runs after everything inside the mounts is created. */
  readonly seal: Op[];
};

/** Plans the creation and attachment of mounts. @param mounts as returned by orderMounts(). */
export function planMounts(mounts: readonly RootMount[]): MountOps {
  const shown = mounts.filter((mount) => mount.showsKernel).map((mount) => mount.target);
  const plans = mounts.map((mount, i) => planMount(mount, mount.keepAs ?? `mount${i}`, { isOnShown: isBelowAny(mount.target, shown) }));
  return { make: plans.flatMap((plan) => plan.make), attach: plans.flatMap((plan) => plan.attach), seal: plans.flatMap((plan) => plan.seal) };
}

/** Returns whether a path is one of the others, or below one of them. */
export function isCovered(path: string, others: readonly string[]): boolean {
  return others.map(normalPath).some((other) => `${normalPath(path)}/`.startsWith(other === '/' ? '/' : `${other}/`));
}

const isBelowAny = (path: string, others: readonly string[]): boolean =>
  isCovered(path, others) && !others.map(normalPath).includes(normalPath(path));

function planMount(mount: RootMount, name: Reg, { isOnShown }: { readonly isOnShown: boolean }): MountOps {
  const target = normalPath(mount.target);
  const { source } = mount;
  const reg = source.kind === 'inherited' ? source.reg : name;
  const make = source.kind === 'inherited' ? adjustInherited(mount, reg) : makeNew(source, mount.attributes, reg, target);
  const at = `${name}@`;
  const attach: Op[] = [
    ...(mount.replacesLink ? removeLink(target, `${at}link`) : []),
    ...makeInRoot(target, mount.isDirectory ? 'directory' : 'file', at),
    ...(isOnShown ? [] : checkPlace(target, at)),
    moveOnto(reg, at, source.kind === 'new' ? `mount ${source.type} on ${target}` : `bind mount on ${target}`),
    { call: 'close', fd: at, note: `close the mount point ${target}` },
  ];
  const close: Op[] = mount.keepAs === undefined ? [{ call: 'close', fd: reg, note: `close the mount of ${target}` }] : [];
  if (!mount.isSealedLast) return { make, attach: [...attach, ...close], seal: [] };
  const attr = { set: MOUNT_ATTR.RDONLY };
  return {
    make,
    attach,
    seal: [{ call: 'mount_setattr', dir: reg, path: '', flags: AT.EMPTY_PATH, attr, note: `make ${target} read-only` }, ...close],
  };
}

/** A mount point that a link in a volume has moved into proc or sysfs would hide or replace files of the kernel. The object is checked, not the path. */
function checkPlace(target: string, at: Reg): Op[] {
  const where = `mount on ${target}: check that the mount point`;
  if (target.startsWith('/proc/')) return [{ call: 'expect_fs', fd: at, magic: FS_MAGIC.PROC, note: `${where} is in the proc file system` }];
  const notProc: Op = { call: 'refuse_fs', fd: at, magic: FS_MAGIC.PROC, note: `${where} is not in a proc file system` };
  const notSys: Op = { call: 'refuse_fs', fd: at, magic: FS_MAGIC.SYSFS, note: `${where} is not in a sysfs file system` };
  return target.startsWith('/sys/') ? [notProc] : [notProc, notSys];
}

/** Removes a link of the image. The next operations create a file in its place. */
function removeLink(path: string, parent: Reg): Op[] {
  const slash = path.lastIndexOf('/');
  return [
    ...makeInRoot(path.slice(0, slash) || '/', 'directory', parent),
    { call: 'unlinkat', dir: parent, path: path.slice(slash + 1), flags: 0, tolerate: ['ENOENT'], note: `remove the link ${path} of the image` },
    { call: 'close', fd: parent, note: `close the directory of ${path}` },
  ];
}

export function makeNew(
  source: { type: string; options: readonly (readonly [string, string | true])[] },
  attributes: number,
  out: Reg,
  target: string,
): Op[] {
  const fs = `${out}.fs`;
  const what = `${source.type} for ${target}`;
  return [
    { call: 'fsopen', type: source.type, flags: FSOPEN.CLOEXEC, out: fs, note: `open ${what}` },
    ...source.options.map(
      ([key, value]): Op =>
        value === true
          ? { call: 'fsconfig_flag', fs, key, note: `set option ${key} of ${what}` }
          : { call: 'fsconfig_string', fs, key, value, note: `set option ${key}=${value} of ${what}` },
    ),
    { call: 'fsconfig_create', fs, note: `create ${what}` },
    { call: 'fsmount', fs, flags: FSOPEN.CLOEXEC, attributes, out, note: `create the mount of ${what}` },
    { call: 'close', fd: fs, note: `close the configuration of ${what}` },
  ];
}

function adjustInherited(mount: RootMount, reg: Reg): Op[] {
  const ops: Op[] = [
    {
      call: 'mount_setattr',
      dir: reg,
      path: '',
      flags: AT.EMPTY_PATH | AT.RECURSIVE,
      attr: { propagation: mount.propagation ?? MS.PRIVATE },
      note: `set the propagation of ${mount.target}`,
    },
  ];
  if (mount.attributes !== 0) {
    const flags = AT.EMPTY_PATH | (mount.isRecursive ? AT.RECURSIVE : 0);
    ops.push({
      call: 'mount_setattr',
      dir: reg,
      path: '',
      flags,
      attr: { set: mount.attributes },
      note: `set the attributes of ${mount.target}`,
    });
  }
  return ops;
}

export function moveOnto(from: Reg, to: Reg, note: string): Op {
  return { call: 'move_mount', from, fromPath: '', to, toPath: '', flags: MOVE_MOUNT.F_EMPTY_PATH | MOVE_MOUNT.T_EMPTY_PATH, note };
}

export function cloneOf(reg: Reg, out: Reg, note: string, isRecursive = false): Op {
  const flags = OPEN_TREE.CLONE | OPEN_TREE.CLOEXEC | AT.EMPTY_PATH | (isRecursive ? AT.RECURSIVE : 0);
  return { call: 'open_tree', dir: reg, path: '', flags, out, note };
}
