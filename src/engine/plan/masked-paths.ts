/**
 * Plans the masked and the read-only paths of a container. The kubelet decides which ones: src/cri/from-request/security-from-request.ts. Pure.
 */
import { AT, MOUNT_ATTR } from './abi.ts';
import { openChecked } from './enter-rootfs.ts';
import { cloneOf, makeNew, moveOnto } from './mounts.ts';
import type { Op, Reg } from './plan.ts';

/** A path to hide, from inspectMaskedPaths(), which omits paths that do not exist. */
export type MaskedPath = { readonly path: string; readonly isDirectory: boolean };

/**
 * Returns the operations that hide paths: a file behind the null device, a directory behind an empty read-only tmpfs, which all directories share.
 * They run after all mounts are attached, and after openKernelTrees().
 *
 * @param mask a detached mount of the host's null device. The container's own /dev/null is not used: the container could have put another file there.
 */
export function planMaskedPaths(paths: readonly MaskedPath[], mask: Reg): Op[] {
  // The first path must exist: see cover(). Paths of the kernel do; a volume may hide a path of the image.
  const ordered = [...paths.filter(isOfKernel), ...paths.filter((each) => !isOfKernel(each))];
  const files = ordered.filter((masked) => !masked.isDirectory);
  const directories = ordered.filter((masked) => masked.isDirectory);
  return [
    ...files.flatMap(({ path }, i) => cover(mask, path, `masked${i}`, i === 0)),
    ...(directories.length > 0 ? makeEmpty() : []),
    ...directories.flatMap(({ path }, i) => cover('empty', path, `hidden${i}`, i === 0)),
  ];
}

const isOfKernel = ({ path }: MaskedPath): boolean => /^\/(proc|sys)\//.test(path);

function makeEmpty(): Op[] {
  const options = [
    ['source', 'tmpfs'],
    ['nr_blocks', '1'],
    ['mode', '0555'],
  ] as const;
  const attributes = MOUNT_ATTR.RDONLY | MOUNT_ATTR.NOSUID | MOUNT_ATTR.NODEV | MOUNT_ATTR.NOEXEC;
  return makeNew({ type: 'tmpfs', options }, attributes, 'empty', 'masked directories');
}

/**
 * Mounts the source on the first path, and a clone of it on each other path. A path that has disappeared since inspectMaskedPaths() is skipped. If the first
 * one has, kernels before 6.15 cannot make the clones, because they clone only attached mounts: the container then fails to start.
 */
function cover(source: Reg, path: string, name: Reg, isFirst: boolean): Op[] {
  const at = `${name}@`;
  const clone: Op[] = isFirst ? [] : [cloneOf(source, name, `prepare the mask of ${path}`)];
  return [
    { ...openChecked(path, at, { isDirectory: false, note: `open ${path} to mask it` }), tolerate: ['ENOENT'] },
    ...clone,
    moveOnto(isFirst ? source : name, at, `mask ${path}`),
    { call: 'close', fd: at, note: `close ${path}` },
    ...(isFirst ? [] : [{ call: 'close', fd: name, note: `close the mask of ${path}` } as const]),
  ];
}

/** Returns the operations that make trees read-only, including mounts inside them. Missing paths are skipped. They run after planMaskedPaths(). */
export function planReadonlyPaths(paths: readonly string[]): Op[] {
  return paths.flatMap((path, i): Op[] => {
    const at = `readonly${i}@`;
    const clone = `readonly${i}`;
    return [
      { ...openChecked(path, at, { isDirectory: false, note: `open ${path} to make it read-only` }), tolerate: ['ENOENT', 'ENOTDIR'] },
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
