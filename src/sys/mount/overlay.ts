/**
 * Overlays: read-only layers with or without a writable directory above them, as a detached mount.
 *
 * Three ways, by what the kernel knows, best first: directories as fds (Linux 6.13), one text option a layer (6.7), one text for all (before).
 */
import { isErrno } from '../call/ffi.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat } from '../call/syscalls.ts';
import { cloneTree, createDetachedMount, type FsOption, MS_PRIVATE, mountByText, setMountAttributes, unmount } from './mounts.ts';

export type OverlayRequest = {
  /** Topmost first, one at least, two where nothing is writable; at most 500, the kernel's limit. A number is the fd of a directory or a detached mount, which stays the caller's. */
  readonly layers: readonly (string | number)[];
} & (
  | { readonly writable: Writable }
  /** Read-only. */
  | {
      /** A directory on which the overlay lies for a moment where the kernel wants that. */
      readonly place: string;
    }
);

type Writable = {
  /** On one file system with `work`. */
  readonly upper: string;
  /** Empty. */
  readonly work: string;
  /** No syncs: what is written does not outlive a crash of the kernel. */
};

type Directories = { readonly layers: readonly number[]; readonly above: readonly (readonly ['upperdir' | 'workdir', number])[] };

/** @returns the fd of the detached mount. @throws {SyscallError} with the kernel's own sentence where it gives one. */
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
    // Nobody exports it over NFS, and both cost look-ups.
    const flags = ['index=off', 'xino=off', ...(writable ? ['volatile'] : [])];
    const target = 'place' in request ? request.place : request.writable.upper;
    return byFds(directories, flags) ?? byTexts(directories, flags) ?? byOneText(directories, flags, target);
  } finally {
    for (const fd of opened) close(fd);
  }
}

/** @returns null when this kernel wants texts. */
function byFds({ layers, above }: Directories, flags: readonly string[]): number | null {
  const options = [...layers.map((fd): FsOption => ['lowerdir+', fd]), ...above];
  try {
    return createDetachedMount('overlay', [['source', 'overlay'], ...options, ...flags.map(flagOption)]);
  } catch (error) {
    // A kernel that takes no fds here calls this one bad, or the option invalid.
    if (isErrno(error, 'EINVAL', 'EBADF', 'EOPNOTSUPP')) return null;
    throw error;
  }
}

/** @returns null when this kernel has no `lowerdir+`. */
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
 * A text option of fsconfig(2) ends at 255 bytes here, mount(2)'s at a page: some 250 layers by the short names of their fds.
 * For the moment of it the overlay lies on its upper directory, or the one that was given.
 */
function byOneText({ layers, above }: Directories, flags: readonly string[], target: string): number {
  const text = [`lowerdir=${layers.map(path).join(':')}`, ...above.map(([key, fd]) => `${key}=${path(fd)}`), ...flags].join(',');
  mountByText('overlay', target, text);
  try {
    const mount = cloneTree(target, { isRecursive: false });
    // Where the target's mount is shared the copy is too, and pivot_root(2) refuses such a root.
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
