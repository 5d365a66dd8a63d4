/**
 * Plans the mounts in a container's root and their attributes, and the masked and read-only paths.
 *
 * Pure. Mounts are created before pivot_root and attached after it: in a user namespace, proc can be mounted only while another proc is visible.
 * They are attached to an fd of the target that was resolved inside the root, so that no link of an image can redirect a mount outside.
 */
import { AT, FSOPEN, MOUNT_ATTR, MOVE_MOUNT, type MS, OPEN_TREE } from './abi.ts';
import type { Op, Reg } from './plan.ts';
import { makeInRoot, openInRoot } from './rootfs.ts';

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
  /** For an inherited tree; undefined: unchanged. */
  readonly propagation?: typeof MS.PRIVATE | typeof MS.SLAVE | typeof MS.SHARED;
  /** Becomes read-only after all other mounts are attached, because some of them are attached inside it. */
  readonly isSealedLast?: boolean;
  /** Keeps the fd of the mount open in this register, for later operations. */
  readonly keepAs?: Reg;
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
  const plans = mounts.map((mount, i) => planMount(mount, mount.keepAs ?? `mount${i}`));
  return { make: plans.flatMap((plan) => plan.make), attach: plans.flatMap((plan) => plan.attach), seal: plans.flatMap((plan) => plan.seal) };
}

function planMount(mount: RootMount, name: Reg): MountOps {
  const target = normalPath(mount.target);
  const { source } = mount;
  const reg = source.kind === 'inherited' ? source.reg : name;
  const make = source.kind === 'inherited' ? adjustInherited(mount, reg) : makeNew(source, mount.attributes, reg, target);
  const at = `${name}@`;
  const attach: Op[] = [
    ...makeInRoot(target, mount.isDirectory ? 'directory' : 'file', at),
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

function makeNew(
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
  const ops: Op[] = [];
  if (mount.propagation !== undefined) {
    const flags = AT.EMPTY_PATH | AT.RECURSIVE;
    ops.push({
      call: 'mount_setattr',
      dir: reg,
      path: '',
      flags,
      attr: { propagation: mount.propagation },
      note: `set the propagation of ${mount.target}`,
    });
  }
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

/** A path to hide. Its type was determined before the container was planned. Paths that do not exist are not in the list. */
export type MaskedPath = { readonly path: string; readonly isDirectory: boolean };

/**
 * Returns the operations that hide paths: a file behind /dev/null, a directory behind an empty read-only tmpfs, which all directories share.
 * They run after all mounts are attached.
 */
export function planMaskedPaths(paths: readonly MaskedPath[]): Op[] {
  const files = paths.filter((masked) => !masked.isDirectory);
  const directories = paths.filter((masked) => masked.isDirectory);
  const ops: Op[] = [];
  if (files.length > 0) ops.push(openInRoot('/dev/null', 'devnull', { isDirectory: false, note: 'open /dev/null to mask paths' }));
  files.forEach(({ path }, i) => {
    ops.push(...cover('devnull', path, `masked${i}`));
  });
  directories.forEach(({ path }, i) => {
    // The first directory gets the tmpfs itself. Older kernels can clone a mount only if it is attached in this namespace.
    if (i === 0) ops.push(...coverFirst(path));
    else ops.push(...cover('empty', path, `hidden${i}`));
  });
  return ops;
}

function coverFirst(path: string): Op[] {
  const options = [
    ['source', 'tmpfs'],
    ['nr_blocks', '1'],
    ['mode', '0555'],
  ] as const;
  const attributes = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;
  return [
    ...makeNew({ type: 'tmpfs', options }, attributes, 'empty', path),
    openInRoot(path, 'empty@', { isDirectory: true, note: `open ${path} to mask it` }),
    moveOnto('empty', 'empty@', `mask ${path}`),
    { call: 'close', fd: 'empty@', note: `close ${path}` },
  ];
}

function cover(source: Reg, path: string, name: Reg): Op[] {
  const at = `${name}@`;
  return [
    { ...openInRoot(path, at, { isDirectory: false, note: `open ${path} to mask it` }), tolerate: ['ENOENT'] },
    cloneOf(source, name, `prepare the mask of ${path}`),
    moveOnto(name, at, `mask ${path}`),
    { call: 'close', fd: at, note: `close ${path}` },
    { call: 'close', fd: name, note: `close the mask of ${path}` },
  ];
}

/** Returns the operations that make trees read-only, including mounts inside them. Missing paths are skipped. They run after planMaskedPaths(). */
export function planReadonlyPaths(paths: readonly string[]): Op[] {
  return paths.flatMap((path, i): Op[] => {
    const at = `readonly${i}@`;
    const clone = `readonly${i}`;
    return [
      { ...openInRoot(path, at, { isDirectory: false, note: `open ${path} to make it read-only` }), tolerate: ['ENOENT', 'ENOTDIR'] },
      cloneOf(at, clone, `prepare the read-only mount of ${path}`, true),
      {
        call: 'mount_setattr',
        dir: clone,
        path: '',
        flags: AT.EMPTY_PATH | AT.RECURSIVE,
        attr: { set: MOUNT_ATTR.RDONLY },
        note: `make ${path} read-only`,
      },
      moveOnto(clone, at, `mount ${path} read-only`),
      { call: 'close', fd: clone, note: `close the read-only mount of ${path}` },
      { call: 'close', fd: at, note: `close ${path}` },
    ];
  });
}
