/**
 * Sets owner, mode, modification time and extended attributes of a layer's nodes.
 */
import { fstatSync } from 'node:fs';
import { isErrno } from '../../sys/call/ffi.ts';
import { setLinkOwner, setLinkTimes, setNodeOwnerAndMode, setOwnerAndMode, setTimes, setXattr, setXattrAt } from '../../sys/filesystem/inodes.ts';
import type { TarEntry } from '../tar/tar.ts';

const defaultAclXattr = 'system.posix_acl_default';
/** Attributes that are valid only on the machine that built the image: overlayfs's own, and the labels and signatures of its security policy. */
const foreignXattr = /^(?:(?:trusted|user)\.overlay\.|security\.(?:selinux|ima|evm|SMACK64))/;
/** Names of refused attributes that are reported. */
const refusedXattrsMax = 8;

export class LayerMetadata {
  readonly #umask = process.umask();
  readonly #refusedXattrs = new Set<string>();
  /** Whether a new file has the owner and mode that it was created with, so that they need not be set. Checked with the first ordinary file. */
  #isCreatedExact: boolean | undefined;

  /** Names of extended attributes that the file system did not accept. */
  get refusedXattrs(): readonly string[] {
    return [...this.#refusedXattrs];
  }

  /** @returns the mode to create a file with. A file whose owner or mode changes later is at first accessible to root only. */
  initialMode(entry: TarEntry): number {
    return this.#isOrdinary(entry) ? entry.mode : 0o600;
  }

  /** To be called after the last write, which changes the time. */
  setFile(fd: number, entry: TarEntry): void {
    if (this.#isOrdinary(entry)) this.#isCreatedExact ??= hasOwnerAndMode(fd, entry);
    if (this.#isCreatedExact !== true || !this.#isOrdinary(entry)) setOwnerAndMode(fd, entry.uid, entry.gid, entry.mode);
    this.#setXattrs(entry, (name, value) => setXattr(fd, name, value));
    setTimes(fd, entry.mtime);
  }

  /** Does not set the time: each new name in the directory changes it again. */
  setDirectory(fd: number, entry: TarEntry): void {
    // New files may inherit the group (set-group-id, or the mount option grpid) and the default ACL.
    if (entry.gid !== 0 || entry.xattrs.has(defaultAclXattr)) this.#isCreatedExact = false;
    setOwnerAndMode(fd, entry.uid, entry.gid, entry.mode);
    this.#setXattrs(entry, (name, value) => setXattr(fd, name, value));
  }

  /** Symbolic links, devices and fifos. */
  setNode(dir: number, name: string, entry: TarEntry): void {
    if (entry.kind === 'symlink') setLinkOwner(dir, name, entry.uid, entry.gid);
    else setNodeOwnerAndMode(dir, name, entry.uid, entry.gid, entry.mode);
    this.#setXattrs(entry, (attribute, value) => setXattrAt(dir, name, attribute, value));
    setLinkTimes(dir, name, entry.mtime);
  }

  /** Owned by root, with a mode that open(2) sets completely. */
  #isOrdinary({ uid, gid, mode }: TarEntry): boolean {
    return uid === 0 && gid === 0 && (mode & (0o7000 | this.#umask)) === 0;
  }

  #setXattrs(entry: TarEntry, set: (name: string, value: Uint8Array) => void): void {
    for (const [name, value] of entry.xattrs) {
      if (foreignXattr.test(name)) continue;
      try {
        set(name, value);
      } catch (error) {
        if (!isErrno(error, 'EOPNOTSUPP', 'ENOTSUP', 'EPERM')) throw error;
        if (this.#refusedXattrs.size < refusedXattrsMax) this.#refusedXattrs.add(name);
      }
    }
  }
}

function hasOwnerAndMode(fd: number, { uid, gid, mode }: TarEntry): boolean {
  const status = fstatSync(fd);
  return status.uid === uid && status.gid === gid && (status.mode & 0o7777) === mode;
}
