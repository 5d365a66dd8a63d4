/**
 * Finds directories of a layer that is being written, by fds of its own: no path leads out of the layer's directory, whatever links it holds.
 *
 * Links are followed as a program in the container would see them, with the layer's directory as the root; missing directories are made.
 * Keeps the fds of the present directory's components open, so that a file beside the one before costs no lookup.
 */
import assert from 'node:assert/strict';
import { invalidArgument } from '../../lib/errors.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { close } from '../../sys/call/syscalls.ts';
import { makeDirectoryAt, openDirectoryAt, readLinkAt, setOwnerAndMode } from '../../sys/filesystem/inodes.ts';
import { shownPath } from './layer-path.ts';

/** Links followed in one path: as many as the kernel does. Source: path_resolution(7). */
const linksMax = 40;
const depthMax = 1024;
/** Of a directory's path, links followed: a name more, and the node's own path to its layers, and it is as long as any that Linux takes (PATH_MAX). */
const pathBytesMax = 3328;

export type LayerTree = {
  /** The directory of a clean path, made with its parents where missing. The fd belongs to the tree, and is good until the next call. */
  readonly enter: (path: string) => number;
  /** As enter(), but undefined where there is none: makes nothing, and follows no link. */
  readonly find: (path: string) => number | undefined;
  /** Where enter() led last: a clean path without links. */
  readonly where: () => string;
  /** Closes all fds of its own. It can be entered again. */
  readonly leave: () => void;
};

/**
 * @param rootFd of the layer's directory; stays the caller's.
 * @param onMade told of each directory that was made because something beneath it was asked for; it is owned by root, mode 0755.
 * @param takeAway what was in its place and no directory: of two entries the last one wins.
 */
export function openLayerTree(
  rootFd: number,
  onMade: (path: string, fd: number) => void,
  takeAway: (dir: number, name: string, path: string) => void,
): LayerTree {
  const names: string[] = [];
  const fds: number[] = [];
  /** Of names, each with its slash. */
  let pathBytes = 0;
  let entered: string | undefined;
  /** names, joined; undefined since they changed. */
  let joined: string | undefined;

  const top = (): number => fds.at(-1) ?? rootFd;
  const where = (): string => {
    joined ??= names.join('/');
    return joined;
  };

  const truncate = (length: number): void => {
    joined = undefined;
    while (fds.length > length) {
      close(fds.pop() ?? -1);
      pathBytes -= (names.pop() ?? '').length + 1;
    }
  };

  const descend = (name: string, fd: number): void => {
    joined = undefined;
    names.push(name);
    fds.push(fd);
    pathBytes += name.length + 1;
    if (names.length > depthMax) throw invalidArgument(`path ${shownPath(where())} is more than ${depthMax} directories deep`);
    if (pathBytes > pathBytesMax) throw invalidArgument(`directory ${shownPath(where())} has a path of more than ${pathBytesMax} bytes`);
  };

  /** Leaves what the present directory shares with the path on the stack. @returns the components still to be entered. */
  const startTowards = (path: string): string[] => {
    const components = path === '' ? [] : path.split('/');
    let shared = 0;
    while (shared < components.length && components[shared] === names[shared]) shared += 1;
    truncate(shared);
    return components.slice(shared);
  };

  const enter = (path: string): number => {
    if (entered === path) return top();
    entered = undefined;
    const rest = startTowards(path);
    let links = 0;
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      if (name === '' || name === '.') continue;
      if (name === '..') {
        // At the root it leads to the root, as in a container.
        truncate(Math.max(0, names.length - 1));
        continue;
      }
      const fd = openDirectoryAt(top(), name);
      const target = fd === undefined ? readLinkAt(top(), name) : undefined;
      if (fd !== undefined) descend(name, fd);
      else if (target === undefined) enterMade(name);
      else {
        links += 1;
        if (links > linksMax) throw invalidArgument(`path ${shownPath(path)} leads through more than ${linksMax} symbolic links`);
        if (target.startsWith('/')) truncate(0);
        rest.unshift(...target.split('/'));
      }
    }
    entered = path;
    return top();
  };

  const enterMade = (name: string): void => {
    try {
      makeDirectoryAt(top(), name);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
      takeAway(top(), name, [...names, name].join('/'));
      makeDirectoryAt(top(), name);
    }
    const fd = openDirectoryAt(top(), name);
    assert(fd !== undefined, 'nobody else writes here');
    descend(name, fd);
    setOwnerAndMode(fd, 0, 0, 0o755);
    onMade(where(), fd);
  };

  const find = (path: string): number | undefined => {
    entered = undefined;
    for (const name of startTowards(path)) {
      const fd = openDirectoryAt(top(), name);
      if (fd === undefined) return undefined;
      descend(name, fd);
    }
    return top();
  };

  return { enter, find, where, leave: () => truncate(0) };
}
