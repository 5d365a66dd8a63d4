/**
 * Opens directories of a layer while the layer is being written. No path and no symbolic link of the layer leads out of the layer's directory.
 *
 * Symbolic links are resolved as in a container, with the layer's directory as the root. Missing directories are created. The fds of all components
 * of the current directory stay open, so that the next file in the same directory needs no lookup.
 */
import assert from 'node:assert/strict';
import { invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close } from '../../sys/call/syscalls.ts';
import { makeDirectoryAt, openDirectoryAt, readLinkAt, setOwnerAndMode } from '../../sys/filesystem/inodes.ts';
import { shownPath } from './layer-path.ts';

/** Symbolic links followed in one path. The kernel's limit. Source: path_resolution(7). */
const linksMax = 40;
const depthMax = 1024;
/** Length of a directory's path after links are resolved. Below PATH_MAX (4096), so that a name and the node's own path to its layers fit as well. */
const pathBytesMax = 3328;

/** Called with each directory that enter() created because an entry below it needs it. The owner is root, the mode 0755: see implied-directories.ts. */
type DirectoryCreated = (path: string, fd: number) => void;

/** Removes an existing node with everything below it, or moves it away, so that its name is free for a later entry. Succeeds if there is none. */
export type RemoveExisting = (dir: number, name: string, path: string) => void;

export class LayerTree {
  readonly #rootFd: number;
  readonly #onCreated: DirectoryCreated;
  readonly #removeExisting: RemoveExisting;
  /** The components of the current directory, and an open fd for each. */
  readonly #names: string[] = [];
  readonly #fds: number[] = [];
  /** The sum of the lengths of `#names`, each with a slash. */
  #pathBytes = 0;
  /** The path of the last enter(), while its directory is still the current one. */
  #entered: string | undefined;
  /** `#names`, joined. Undefined after a change. */
  #path: string | undefined;

  /** @param rootFd the layer's directory. The caller closes it. */
  constructor(rootFd: number, onCreated: DirectoryCreated, removeExisting: RemoveExisting) {
    this.#rootFd = rootFd;
    this.#onCreated = onCreated;
    this.#removeExisting = removeExisting;
  }

  /** The path of the current directory: clean, with all links resolved. */
  get path(): string {
    this.#path ??= this.#names.join('/');
    return this.#path;
  }

  /**
   * Opens the directory at a clean path. Creates it and its parents if they are missing. A node in the way that is neither a directory nor a link is removed.
   *
   * @returns the fd. It belongs to the tree, and is valid until the next call.
   * @throws {BerthError} INVALID_ARGUMENT if the path is too long or too deep, or has too many symbolic links.
   */
  enter(path: string): number {
    if (this.#entered === path) return this.#top();
    this.#entered = undefined;
    const rest = this.#startTowards(path);
    let links = 0;
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        // At the root, `..` is the root, as in a container.
        this.#truncate(Math.max(0, this.#names.length - 1));
        continue;
      }
      const target = this.#step(name);
      if (target === undefined) continue;
      links += 1;
      if (links > linksMax) throw invalidArgument(`path ${shownPath(path)} has more than ${linksMax} symbolic links`);
      if (target.startsWith('/')) this.#truncate(0);
      rest.unshift(...target.split('/'));
    }
    this.#entered = path;
    return this.#top();
  }

  /** Opens the directory at a clean path without following links. Creates nothing. @returns undefined if there is no such directory. */
  find(path: string): number | undefined {
    this.#entered = undefined;
    for (const name of this.#startTowards(path)) {
      const fd = openDirectoryAt(this.#top(), name);
      if (fd === undefined) return undefined;
      this.#descend(name, fd);
    }
    return this.#top();
  }

  /** Closes all fds except the root's. The tree can be used again. */
  leave(): void {
    this.#entered = undefined;
    this.#truncate(0);
  }

  #top(): number {
    return this.#fds.at(-1) ?? this.#rootFd;
  }

  /** Returns to the deepest directory that the current path and the given path have in common. @returns the remaining components. */
  #startTowards(path: string): string[] {
    const components = path === '' ? [] : path.split('/');
    let shared = 0;
    while (shared < components.length && components[shared] === this.#names[shared]) shared += 1;
    this.#truncate(shared);
    return components.slice(shared);
  }

  /** Enters one directory below the current one, or creates it. @returns the target if the name is a symbolic link. */
  #step(name: string): string | undefined {
    const fd = openDirectoryAt(this.#top(), name);
    if (fd !== undefined) {
      this.#descend(name, fd);
      return undefined;
    }
    const target = readLinkAt(this.#top(), name);
    if (target === undefined) this.#create(name);
    return target;
  }

  #create(name: string): void {
    const dir = this.#top();
    try {
      makeDirectoryAt(dir, name);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      this.#removeExisting(dir, name, [...this.#names, name].join('/'));
      makeDirectoryAt(dir, name);
    }
    const fd = openDirectoryAt(dir, name);
    assert(fd !== undefined, 'no other process writes here');
    this.#descend(name, fd);
    setOwnerAndMode(fd, 0, 0, 0o755);
    this.#onCreated(this.path, fd);
  }

  #descend(name: string, fd: number): void {
    this.#path = undefined;
    this.#names.push(name);
    this.#fds.push(fd);
    this.#pathBytes += name.length + 1;
    if (this.#names.length > depthMax) throw invalidArgument(`path ${shownPath(this.path)} is more than ${depthMax} directories deep`);
    if (this.#pathBytes > pathBytesMax) throw invalidArgument(`directory ${shownPath(this.path)} has a path of more than ${pathBytesMax} bytes`);
  }

  /** Closes the directories below the first `length` components. */
  #truncate(length: number): void {
    this.#path = undefined;
    while (this.#fds.length > length) {
      close(this.#fds.pop() ?? -1);
      this.#pathBytes -= (this.#names.pop() ?? '').length + 1;
    }
  }
}
