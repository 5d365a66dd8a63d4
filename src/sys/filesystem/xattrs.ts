/**
 * Extended attributes of files, links and directories by path, including those of overlayfs. Paths and names are byte strings (one character per byte).
 * Symbolic links are not followed.
 */
import { checked, isErrno, libc } from '../call/ffi.ts';

const c_llistxattr = libc.func('long llistxattr(const uint8_t *path, void *list, size_t size)');
const c_lgetxattr = libc.func('long lgetxattr(const uint8_t *path, const uint8_t *name, void *value, size_t size)');
const c_lsetxattr = libc.func('int lsetxattr(const uint8_t *path, const uint8_t *name, const void *value, size_t size, int flags)');

/** The kernel's limit for one value, and for the list of names: xattr(7). */
const xattrBytesMax = 64 << 10;
const overlayPrefix = 'trusted.overlay.';

/** Returns all attributes except those of overlayfs. @throws {SyscallError} */
export function readXattrs(path: string): (readonly [name: string, value: Buffer])[] {
  const names = namesOf(path).filter((name) => !name.startsWith(overlayPrefix));
  return names.map((name) => [name, readXattr(path, name) ?? Buffer.alloc(0)] as const);
}

/** @throws {SyscallError} */
export function setXattr(path: string, name: string, value: Buffer): void {
  checked(c_lsetxattr(pathOf(path), pathOf(name), value, value.length, 0), () => `set ${name} of ${shown(path)}`);
}

/** Returns true if a directory of an overlayfs layer is opaque: it hides directories of lower layers. */
export function isOpaque(path: string): boolean {
  return readXattr(path, `${overlayPrefix}opaque`)?.[0] === 0x79;
}

/** Returns true if an entry of an overlayfs layer is redirected, or has only metadata. */
export function isRedirected(path: string): boolean {
  return namesOf(path).some((name) => [`${overlayPrefix}redirect`, `${overlayPrefix}metacopy`].includes(name));
}

function namesOf(path: string): string[] {
  const list = Buffer.allocUnsafe(xattrBytesMax);
  const length = lengthOr0(c_llistxattr(pathOf(path), list, list.length), path);
  return list
    .toString('latin1', 0, length)
    .split('\0')
    .filter((name) => name !== '');
}

/** @returns undefined if the attribute does not exist, or the file system does not support attributes. */
function readXattr(path: string, name: string): Buffer | undefined {
  const value = Buffer.allocUnsafe(xattrBytesMax);
  const length = lengthOr0(c_lgetxattr(pathOf(path), pathOf(name), value, value.length), path);
  return length === 0 ? undefined : Buffer.from(value.subarray(0, length));
}

function lengthOr0(result: number | bigint, path: string): number {
  try {
    return checked(result, () => `read extended attributes of ${shown(path)}`);
  } catch (error) {
    if (isErrno(error, 'ENODATA', 'EOPNOTSUPP', 'ENOTSUP')) return 0;
    throw error;
  }
}

const pathOf = (path: string): Buffer => Buffer.from(`${path}\0`, 'latin1');
const shown = (path: string): string => JSON.stringify(Buffer.from(path, 'latin1').toString());
