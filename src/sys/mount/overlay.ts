/**
 * Creates overlayfs mounts: read-only layers, with or without a writable upper directory, as a detached mount.
 *
 * Uses the best of three interfaces that the kernel supports: directories as fds (Linux 6.13), one text option per layer (6.7), one text for all (older).
 */
import { isErrno } from '../call/ffi.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat } from '../call/syscalls.ts';
import { cloneTree, createDetachedMount, type FsOption, MS_PRIVATE, mountByText, setMountAttributes, unmount } from './mounts.ts';

export type OverlayRequest = {
  /** Topmost first. At least one, or two for a read-only overlay; at most 500, the kernel's limit. A number is the fd of a directory or detached mount, which the caller closes. */
  readonly layers: readonly (string | number)[];
} & (
  | { readonly writable: Writable }
  /** Read-only. */
  | {
      /** A directory on which the overlay is mounted temporarily on older kernels. */
      readonly place: string;
    }
);

type Writable = {
  /** On the same file system as `work`. The overlay is `volatile`: without syncs, written data may be lost in a crash of the kernel. */
  readonly upper: string;
  /** An empty directory. */
  readonly work: string;
};

type Directories = { readonly layers: readonly number[]; readonly above: readonly (readonly ['upperdir' | 'workdir', number])[] };

/** @returns the fd of the detached mount. @throws {SyscallError} with the kernel's own message if there is one. */
export function createOverlay(request: OverlayRequest): number {
  const opened: number[] = [];
  const fdOf = (directory: string | number): number => {
    if (typeof directory === 'number') return directory;
    const fd = openat(AT_FDCWD, directory, O_PATH | O_DIRECTORY);
    opened.push(fd);
    return fd;
  };
  const { layers } = request;
  const writable = 'writable' in request ? request.writable : undefined;
  try {
    const above = writable
      ? ([
          ['upperdir', fdOf(writable.upper)],
          ['workdir', fdOf(writable.work)],
        ] as const)
      : [];
    const directories = { layers: layers.map(fdOf), above };
    // The overlay is not exported over NFS, and both features cost lookups.
    const flags = ['index=off', 'xino=off', ...(writable ? ['volatile'] : [])];
    const target = 'place' in request ? request.place : request.writable.upper;
    return byFds(directories, flags) ?? byTexts(directories, flags) ?? byOneText(directories, flags, target);
  } finally {
    for (const fd of opened) close(fd);
  }
}

/** @returns null if the kernel does not support fds. */
function byFds({ layers, above }: Directories, flags: readonly string[]): number | null {
  const options = [...layers.map((fd): FsOption => ['lowerdir+', fd]), ...above];
  try {
    return createDetachedMount('overlay', [['source', 'overlay'], ...options, ...flags.map(flagOption)]);
  } catch (error) {
    // A kernel without support for fds reports a bad fd or an invalid option.
    if (isErrno(error, 'EINVAL', 'EBADF', 'EOPNOTSUPP')) return null;
    throw error;
  }
}

/** @returns null if the kernel does not support `lowerdir+`. */
function byTexts({ layers, above }: Directories, flags: readonly string[]): number | null {
  const options = [...layers.map((fd): FsOption => ['lowerdir+', path(fd)]), ...above.map(([key, fd]): FsOption => [key, path(fd)])];
  try {
    return createDetachedMount('overlay', [['source', 'overlay'], ...options, ...flags.map(flagOption)]);
  } catch (error) {
    if (isErrno(error, 'EINVAL')) return null;
    throw error;
  }
}

/**
 * Uses mount(2): its options may have a page, which suffices for about 250 layers with the short paths of their fds, while an option of fsconfig(2) may have
 * only 255 bytes. The overlay is mounted temporarily on `target`.
 */
function byOneText({ layers, above }: Directories, flags: readonly string[], target: string): number {
  const text = [`lowerdir=${layers.map(path).join(':')}`, ...above.map(([key, fd]) => `${key}=${path(fd)}`), ...flags].join(',');
  mountByText('overlay', target, text);
  try {
    const mount = cloneTree(target, { isRecursive: false });
    // If the target's mount is shared, the clone is too, and pivot_root(2) rejects a shared root.
    setMountAttributes(mount, { propagation: MS_PRIVATE, isRecursive: false });
    return mount;
  } finally {
    unmount(target);
  }
}

function flagOption(flag: string): FsOption {
  const [key = '', value] = flag.split('=');
  return [key, value ?? true];
}

const path = (fd: number): string => `/proc/self/fd/${fd}`;
