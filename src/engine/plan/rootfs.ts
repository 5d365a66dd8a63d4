/**
 * Plans how a container enters its root: the detached overlay is attached, becomes `/`, and the host's tree goes.
 *
 * Pure. The overlay itself is made by the daemon and inherited as register `root`.
 */
import { AT, MNT, MOUNT_ATTR, MOVE_MOUNT, MS, O, RESOLVE } from './abi.ts';
import type { Op, Reg } from './plan.ts';

/** The root's register; inherited, and after enterRoot() the directory `/` of the container. */
export const rootReg: Reg = 'root';

/**
 * Needs a mount namespace of its own, and as working directory any directory of the host: the root is attached on it, or on `place` in it.
 * Nobody sees it there, for the namespace is the container's; an fd from before would be of the host's namespace.
 */
export function attachRoot(place: string): Op {
  return {
    call: 'move_mount',
    from: rootReg,
    fromPath: '',
    to: 'cwd',
    toPath: place,
    flags: MOVE_MOUNT.F_EMPTY_PATH,
    note: 'attaching the root file system',
  };
}

/** From here on nothing of the host's tree is in cgroupView. To run after attachRoot(). */
export function enterRoot(): Op[] {
  return [
    { call: 'fchdir', fd: rootReg, note: 'entering the root file system' },
    // Both on one directory: the old root then lies over the new one and needs no place of its own in the image. Source: pivot_root(2).
    { call: 'pivot_root', newRoot: '.', putOld: '.', note: 'making the root file system the root' },
    { call: 'umount2', target: '.', flags: MNT.DETACH, note: "detaching the host's root" },
    { call: 'chdir', path: '/', note: 'entering the new root' },
  ];
}

/** Makes what the namespace inherited private: else a mount made here would appear on the host. */
export function isolateMounts(): Op {
  return { call: 'mount', source: '', target: '/', type: '', flags: MS.REC | MS.PRIVATE, data: '', note: 'making all mounts private' };
}

/** The root becomes read-only last: mount points are still made in it before. What is mounted below stays as it is. */
export function sealRoot(): Op {
  return {
    call: 'mount_setattr',
    dir: rootReg,
    path: '',
    flags: AT.EMPTY_PATH,
    attr: { set: MOUNT_ATTR.RDONLY },
    note: 'making the root file system read-only',
  };
}

/** How every path inside the container's root is resolved: links stay inside it, and none of /proc's lead out. */
export const inRoot = RESOLVE.IN_ROOT | RESOLVE.NO_MAGICLINKS;

/** Opens a path inside the root, without using it. */
export function openInRoot(path: string, out: Reg, options: { isDirectory: boolean; note: string }): Op {
  const flags = O.PATH | O.CLOEXEC | (options.isDirectory ? O.DIRECTORY : 0);
  return { call: 'openat2', dir: rootReg, path, how: { flags, resolve: inRoot }, out, note: options.note };
}

/**
 * Makes a path inside the root if it is not there, directories 0755 of root, and opens it as `out`.
 *
 * @param path absolute.
 * @param kind what its last component becomes when it is missing.
 */
export function makeInRoot(path: string, kind: 'directory' | 'file', out: Reg): Op[] {
  const parts = path.split('/').filter((part) => part !== '');
  if (parts.length === 0) return [openInRoot('/', out, { isDirectory: true, note: 'opening /' })];
  const ops: Op[] = [];
  let parent: Reg = rootReg;
  parts.forEach((part, i) => {
    const here = `/${parts.slice(0, i + 1).join('/')}`;
    const isLast = i === parts.length - 1;
    const reg = isLast ? out : `${out}~${i}`;
    const isDirectory = !isLast || kind === 'directory';
    ops.push(
      isDirectory
        ? { call: 'mkdirat', dir: parent, path: part, mode: 0o755, tolerate: ['EEXIST'], note: `making directory ${here}` }
        : { call: 'mknodat', dir: parent, path: part, mode: 0o100644, dev: 0, tolerate: ['EEXIST'], note: `making file ${here}` },
      // From the root again, not from the parent: a component may be a link, and links resolve in the root.
      openInRoot(here, reg, { isDirectory, note: `opening ${here}` }),
    );
    if (parent !== rootReg) ops.push({ call: 'close', fd: parent, note: `closing the directory of ${here}` });
    parent = reg;
  });
  return ops;
}
