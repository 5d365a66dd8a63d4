/**
 * Plans the masked and the read-only paths of a container. The kubelet decides which ones: src/cri/from-request/security-from-request.ts. Pure.
 */
import { AT, MOUNT_ATTR } from './abi.ts';
import { openInRoot } from './enter-rootfs.ts';
import { cloneOf, makeNew, moveOnto } from './mounts.ts';
import type { Op, Reg } from './plan.ts';

/** A path to hide, from inspectMaskedPaths(), which omits paths that do not exist. */
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
