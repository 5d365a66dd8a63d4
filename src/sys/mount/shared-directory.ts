/**
 * A directory whose mounts others see: network agents in pods look for net namespaces below it.
 */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { mountOf, parseMountInfo } from '../call/proc.ts';
import { bind, MS_SHARED, setPropagation, unmount } from './mounts.ts';

/**
 * Makes a directory and, where it does not lie on a shared mount, a shared mount of itself.
 *
 * @returns a function that takes that mount away again once the directory is empty, for a daemon that leaves no sandbox behind.
 */
export function makeSharedDirectory(path: string): () => void {
  mkdirSync(path, { recursive: true, mode: 0o755 });
  const place = mountOf(parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')), path);
  if (place?.propagation.some((tag) => tag.startsWith('shared:'))) return () => {};
  bind(path, path);
  setPropagation(path, MS_SHARED);
  return () => {
    if (readdirSync(path).length === 0) unmount(path);
  };
}
