/**
 * Plans how a container enters its root: the detached overlay is attached and becomes `/`, and the host's tree is detached.
 *
 * Pure. The daemon creates the overlay; the plan inherits it as register `root`.
 */
import { AT, FS_MAGIC, MNT, MOUNT_ATTR, MOVE_MOUNT, MS, O, RESOLVE } from './abi.ts';
import type { Op, Reg } from './plan.ts';

/** The register of the root: inherited, and after enterRoot() the directory `/` of the container. */
export const rootReg: Reg = 'root';

/**
 * Returns the operation that attaches the root to the working directory, a directory of the host, or to `place` in it.
 * It needs a new mount namespace, so that the mount is not visible on the host. A directory fd opened earlier would be in the host's mount namespace.
 */
export function attachRoot(place: string): Op {
  return {
    call: 'move_mount',
    from: rootReg,
    fromPath: '',
    to: 'cwd',
    toPath: place,
    flags: MOVE_MOUNT.F_EMPTY_PATH,
    note: 'attach the root file system',
  };
}

/** Returns the operations that enter the root. They run after attachRoot(). Afterwards the host's tree is not visible. */
export function enterRoot(): Op[] {
  return [
    { call: 'fchdir', fd: rootReg, note: 'change the working directory to the root file system' },
    // With the same directory twice, the old root is stacked on the new one and needs no directory in the image. Source: pivot_root(2).
    { call: 'pivot_root', newRoot: '.', putOld: '.', note: 'pivot to the root file system' },
    { call: 'umount2', target: '.', flags: MNT.DETACH, note: 'detach the root file system of the host' },
    { call: 'chdir', path: '/', note: 'change the working directory to /' },
  ];
}

/** Returns the operation that makes all inherited mounts private. Otherwise mounts of the container would appear on the host. */
export function isolateMounts(): Op {
  return { call: 'mount', source: '', target: '/', type: '', flags: MS.REC | MS.PRIVATE, data: '', note: 'make all mounts private' };
}

/** Returns the operation that makes the root read-only, without the mounts in it. It runs last, after all mount points are created in the root. */
export function sealRoot(): Op {
  return {
    call: 'mount_setattr',
    dir: rootReg,
    path: '',
    flags: AT.EMPTY_PATH,
    attr: { set: MOUNT_ATTR.RDONLY },
    note: 'make the root file system read-only',
  };
}

/** RESOLVE flags for every path inside the container's root: links stay inside it, and magic links of /proc are refused. */
export const inRoot = RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS;

/** Returns the operation that opens a path inside the root with O_PATH. */
export function openInRoot(path: string, out: Reg, options: { isDirectory: boolean; note: string }): Op {
  const flags = O.PATH | O.CLOEXEC | (options.isDirectory ? O.DIRECTORY : 0);
  return { call: 'openat2', dir: rootReg, path, how: { flags, resolve: inRoot }, out, note: options.note };
}

/** Returns the operations that open the container's /proc, which must be a proc file system, and /sys. @param hasStandardSys whether /sys is a sysfs. */
export function openKernelTrees({ hasStandardSys }: { readonly hasStandardSys: boolean }): Op[] {
  const open = (path: '/proc' | '/sys'): Op => {
    const how = { flags: O.PATH | O.DIRECTORY | O.CLOEXEC, resolve: inRoot | RESOLVE.NO_SYMLINKS };
    return { call: 'openat2', dir: rootReg, path, how, out: treeOf(path), note: `open ${path} to find paths in it` };
  };
  return [
    open('/proc'),
    { call: 'expect_fs', fd: treeOf('/proc'), magic: FS_MAGIC.PROC, note: 'check that /proc is a proc file system' },
    open('/sys'),
    ...(hasStandardSys
      ? ([{ call: 'expect_fs', fd: treeOf('/sys'), magic: FS_MAGIC.SYSFS, note: 'check that /sys is a sysfs file system' }] as const)
      : []),
  ];
}

const treeOf = (path: '/proc' | '/sys'): Reg => `tree${path}`;

/** Like openInRoot(), but opens a path below /proc or /sys beneath the fd of openKernelTrees(), so that only a file of that tree is found. */
export function openChecked(path: string, out: Reg, options: { isDirectory: boolean; note: string }): Op {
  const tree = (['/proc', '/sys'] as const).find((each) => path === each || path.startsWith(`${each}/`));
  if (tree === undefined) return openInRoot(path, out, options);
  const flags = O.PATH | O.CLOEXEC | (options.isDirectory ? O.DIRECTORY : 0);
  const how = { flags, resolve: RESOLVE.BENEATH | RESOLVE.NO_MAGICLINKS };
  return { call: 'openat2', dir: treeOf(tree), path: path.slice(tree.length + 1) || '.', how, out, note: options.note };
}

/**
 * Returns the operations that create a path inside the root if it is missing, with directories of mode 0755 owned by root, and open it as `out`.
 *
 * @param path absolute.
 * @param kind what to create if the last component is missing.
 */
export function makeInRoot(path: string, kind: 'directory' | 'file', out: Reg): Op[] {
  const parts = path.split('/').filter((part) => part !== '');
  if (parts.length === 0) return [openInRoot('/', out, { isDirectory: true, note: 'open /' })];
  const ops: Op[] = [];
  let parent: Reg = rootReg;
  parts.forEach((part, i) => {
    const here = `/${parts.slice(0, i + 1).join('/')}`;
    const isLast = i === parts.length - 1;
    const reg = isLast ? out : `${out}~${i}`;
    const isDirectory = !isLast || kind === 'directory';
    ops.push(
      isDirectory
        ? { call: 'mkdirat', dir: parent, path: part, mode: 0o755, tolerate: ['EEXIST'], note: `create directory ${here}` }
        : { call: 'mknodat', dir: parent, path: part, mode: 0o100644, dev: 0, tolerate: ['EEXIST'], note: `create file ${here}` },
      // From the root, not from the parent: a component may be a link, which must be resolved inside the root.
      openInRoot(here, reg, { isDirectory, note: `open ${here}` }),
    );
    if (parent !== rootReg) ops.push({ call: 'close', fd: parent, note: `close the directory of ${here}` });
    parent = reg;
  });
  return ops;
}
