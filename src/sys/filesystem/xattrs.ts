/**
 * Extended attributes of files, links and directories by path, overlayfs's own mark among them. Paths and names are byte strings
 * (one character a byte); nothing here follows a link.
 */
import { checked, isErrno, libc } from '../call/ffi.ts';

const c_llistxattr = libc.func('long llistxattr(const uint8_t *path, void *list, size_t size)');
const c_lgetxattr = libc.func('long lgetxattr(const uint8_t *path, const uint8_t *name, void *value, size_t size)');
const c_lsetxattr = libc.func('int lsetxattr(const uint8_t *path, const uint8_t *name, const void *value, size_t size, int flags)');

/** The kernel's limit of one value, and of all names: xattr(7). */
const xattrBytesMax = 64 << 10;
const overlayPrefix = 'trusted.overlay.';

/** All but those that overlayfs keeps for itself. @throws {SyscallError} */
export function readXattrs(path: string): (readonly [name: string, value: Buffer])[] {
  const names = namesOf(path).filter((name) => !name.startsWith(overlayPrefix));
  return names.map((name) => [name, readXattr(path, name) ?? Buffer.alloc(0)] as const);
}

/** @throws {SyscallError} */
export function setXattr(path: string, name: string, value: Buffer): void {
  checked(c_lsetxattr(pathOf(path), pathOf(name), value, value.length, 0), () => `setting ${name} of ${shown(path)}`);
}

/** Whether a directory of an overlay's layer hides those of the layers below. */
export function isOpaque(path: string): boolean {
  return readXattr(path, `${overlayPrefix}opaque`)?.[0] === 0x79;
}

/** Whether an entry of an overlay's layer has its name or its contents elsewhere. */
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

/** @returns undefined where it has none of this name, or the file system no attributes at all. */
function readXattr(path: string, name: string): Buffer | undefined {
  const value = Buffer.allocUnsafe(xattrBytesMax);
  const length = lengthOr0(c_lgetxattr(pathOf(path), pathOf(name), value, value.length), path);
  return length === 0 ? undefined : Buffer.from(value.subarray(0, length));
}

function lengthOr0(result: number | bigint, path: string): number {
  try {
    return checked(result, () => `reading extended attributes of ${shown(path)}`);
  } catch (error) {
    if (isErrno(error, 'ENODATA', 'EOPNOTSUPP', 'ENOTSUP')) return 0;
    throw error;
  }
}

const pathOf = (path: string): Buffer => Buffer.from(`${path}\0`, 'latin1');
const shown = (path: string): string => JSON.stringify(Buffer.from(path, 'latin1').toString());
