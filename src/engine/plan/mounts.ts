/**
 * Plans what is mounted in a container's root, where, with which attributes, and which paths are hidden or read-only.
 *
 * Pure. Mounts are made before the old root goes (a user namespace may make a proc only while one is in cgroupView) and attached after it,
 * onto an fd of the target that was resolved inside the root: no link of an image can lead a mount outside.
 */
import { AT, FSOPEN, MOUNT_ATTR, MOVE_MOUNT, type MS, OPEN_TREE } from './abi.ts';
import type { Op, Reg } from './plan.ts';
import { makeInRoot, openInRoot } from './rootfs.ts';

export type RootMount = {
  /** Absolute, inside the container. */
  readonly target: string;
  /** The target, when it is missing, becomes a directory or a file. */
  readonly isDirectory: boolean;
  readonly source:
    | { readonly kind: 'inherited'; readonly reg: Reg }
    | { readonly kind: 'new'; readonly type: string; readonly options: readonly (readonly [key: string, value: string | true])[] };
  /** MOUNT_ATTR bits. */
  readonly attributes: number;
  /** Whether `attributes` hold for the mounts below it too. */
  readonly isRecursive: boolean;
  /** Of an inherited tree; undefined leaves it. */
  readonly propagation?: typeof MS.PRIVATE | typeof MS.SLAVE | typeof MS.SHARED;
  /** Becomes read-only when all other mounts are attached: some have their place in it. */
  readonly isSealedLast?: boolean;
  /** Keeps the mount's fd open under this name, for operations that come later. */
  readonly keepAs?: Reg;
};

/** Parents before what lies in them; of two on the same path the later one wins, and the earlier is left out. Stable otherwise. */
export function orderMounts(mounts: readonly RootMount[]): RootMount[] {
  const last = new Map(mounts.map((mount) => [normalPath(mount.target), mount]));
  return mounts.filter((mount) => last.get(normalPath(mount.target)) === mount).sort((a, b) => depth(a.target) - depth(b.target));
}

/** Without repeated and trailing slashes, `.` and `..`. */
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
  /** To run before the root is entered. */
  readonly make: Op[];
  /** To run after. */
  readonly attach: Op[];
  /** To run when everything that has its place in a mount is there. */
  readonly seal: Op[];
};

/** @param mounts as orderMounts() gives them. */
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
    moveOnto(reg, at, `mounting ${describeSource(mount)} on ${target}`),
    { call: 'close', fd: at, note: `closing the mount point ${target}` },
  ];
  const close: Op[] = mount.keepAs === undefined ? [{ call: 'close', fd: reg, note: `closing the mount of ${target}` }] : [];
  if (!mount.isSealedLast) return { make, attach: [...attach, ...close], seal: [] };
  const attr = { set: MOUNT_ATTR.RDONLY };
  return {
    make,
    attach,
    seal: [{ call: 'mount_setattr', dir: reg, path: '', flags: AT.EMPTY_PATH, attr, note: `making ${target} read-only` }, ...close],
  };
}

function describeSource(mount: RootMount): string {
  return mount.source.kind === 'new' ? mount.source.type : 'a volume';
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
    { call: 'fsopen', type: source.type, flags: FSOPEN.CLOEXEC, out: fs, note: `opening ${what}` },
    ...source.options.map(
      ([key, value]): Op =>
        value === true
          ? { call: 'fsconfig_flag', fs, key, note: `setting ${key} of ${what}` }
          : { call: 'fsconfig_string', fs, key, value, note: `setting ${key}=${value} of ${what}` },
    ),
    { call: 'fsconfig_create', fs, note: `creating ${what}` },
    { call: 'fsmount', fs, flags: FSOPEN.CLOEXEC, attributes, out, note: `making a mount of ${what}` },
    { call: 'close', fd: fs, note: `closing the configuration of ${what}` },
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
      note: `setting the propagation of ${mount.target}`,
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
      note: `setting the attributes of ${mount.target}`,
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

/** A path to hide. What it is was seen when the container was planned; a path that was not there is not in the list. */
export type MaskedPath = { readonly path: string; readonly isDirectory: boolean };

/**
 * Hides paths: a file behind /dev/null, a directory behind an empty read-only tmpfs, one for all of them.
 * To run after all mounts are attached.
 */
export function planMaskedPaths(paths: readonly MaskedPath[]): Op[] {
  const files = paths.filter((masked) => !masked.isDirectory);
  const directories = paths.filter((masked) => masked.isDirectory);
  const ops: Op[] = [];
  if (files.length > 0) ops.push(openInRoot('/dev/null', 'devnull', { isDirectory: false, note: 'opening /dev/null to mask paths with' }));
  files.forEach(({ path }, i) => {
    ops.push(...cover('devnull', path, `masked${i}`));
  });
  directories.forEach(({ path }, i) => {
    // The first takes the tmpfs itself: from then on it is in this namespace, which older kernels ask of what is cloned.
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
    openInRoot(path, 'empty@', { isDirectory: true, note: `opening ${path} to mask it` }),
    moveOnto('empty', 'empty@', `masking ${path}`),
    { call: 'close', fd: 'empty@', note: `closing ${path}` },
  ];
}

function cover(source: Reg, path: string, name: Reg): Op[] {
  const at = `${name}@`;
  return [
    { ...openInRoot(path, at, { isDirectory: false, note: `opening ${path} to mask it` }), tolerate: ['ENOENT'] },
    cloneOf(source, name, `preparing to mask ${path}`),
    moveOnto(name, at, `masking ${path}`),
    { call: 'close', fd: at, note: `closing ${path}` },
    { call: 'close', fd: name, note: `closing what masks ${path}` },
  ];
}

/** Makes trees read-only, with what is mounted in them; paths that are not there are left. To run after planMaskedPaths(). */
export function planReadonlyPaths(paths: readonly string[]): Op[] {
  return paths.flatMap((path, i): Op[] => {
    const at = `readonly${i}@`;
    const clone = `readonly${i}`;
    return [
      { ...openInRoot(path, at, { isDirectory: false, note: `opening ${path} to make it read-only` }), tolerate: ['ENOENT', 'ENOTDIR'] },
      cloneOf(at, clone, `preparing to make ${path} read-only`, true),
      {
        call: 'mount_setattr',
        dir: clone,
        path: '',
        flags: AT.EMPTY_PATH | AT.RECURSIVE,
        attr: { set: MOUNT_ATTR.RDONLY },
        note: `making ${path} read-only`,
      },
      moveOnto(clone, at, `mounting the read-only ${path}`),
      { call: 'close', fd: clone, note: `closing the read-only ${path}` },
      { call: 'close', fd: at, note: `closing ${path}` },
    ];
  });
}
