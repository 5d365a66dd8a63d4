/**
 * A directory with shared mount propagation: network agents in pods look for network namespaces below it.
 */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { mountOf, parseMountInfo } from '../call/proc.ts';
import { bind, MS_SHARED, setPropagation, unmount } from './mounts.ts';

/**
 * Creates a directory. If it is not on a shared mount, bind mounts it on itself and makes that mount shared.
 *
 * @returns a function that unmounts it if the directory is empty, for a daemon that leaves no sandbox behind.
 */
export function makeSharedDirectory(path: string): () => void {
  mkdirSync(path, { recursive: true, mode: 0o755 });
  const mount = mountOf(parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')), path);
  if (mount?.propagation.some((tag) => tag.startsWith('shared:'))) return () => {};
  bind(path, path);
  setPropagation(path, MS_SHARED);
  return () => {
    if (readdirSync(path).length === 0) unmount(path);
  };
}
