/**
 * Helpers for the files of cgroups, shared by cgroups.ts, cgroup-values.ts and cgroup-processes.ts. They never wait: the files are in memory.
 */
import assert from 'node:assert/strict';
import { accessSync, closeSync, constants, existsSync, mkdirSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { reasonOf } from '../../lib/errors.ts';
import { errnoText, isErrno } from '../call/ffi.ts';

/** Asserts that a path is below the root of the hierarchy: the root itself and `..` are not allowed. */
export function checkPath(path: string): void {
  assert(/^(\/[^/]+)+$/.test(path) && !path.split('/').some((component) => component === '..' || component === '.'), `invalid cgroup path: ${path}`);
}

/** Returns the names of the child cgroups; none if the cgroup is gone. */
export function childrenOf(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

/** Yields to the event loop after this number of directories: a container can create thousands. */
const directoriesPerTurn = 32;

/** Yields the directories of a cgroup and all its descendants, parents first. */
export async function* directoriesFrom(top: string): AsyncGenerator<string> {
  const pending = [top];
  for (let count = 1; pending.length > 0; count++) {
    const directory = pending.pop() as string;
    yield directory;
    pending.push(...childrenOf(directory).map((name) => `${directory}/${name}`));
    if (count % directoriesPerTurn === 0) await setImmediate();
  }
}

/** @returns true if the directory was created, false if it existed. */
export function makeDirectory(directory: string): boolean {
  try {
    mkdirSync(directory, { mode: 0o755 });
    return true;
  } catch (error) {
    if (isErrno(error, 'EEXIST')) return false;
    throw error;
  }
}

/** Writes a value with one write(2), because the kernel parses each write. Never creates a file. */
export function writeFile(file: string, value: string): void {
  const fd = openSync(file, constants.O_WRONLY);
  try {
    writeSync(fd, value);
  } finally {
    closeSync(fd);
  }
}

/** Returns, for example, `no such file or directory (ENOENT)`. Node's own message would repeat the path. */
export function kernelReason(error: unknown): string {
  const errno = (error as NodeJS.ErrnoException).errno;
  const isFromNode = error instanceof Error && 'syscall' in error && typeof errno === 'number';
  return isFromNode ? errnoText(Math.abs(errno)) : reasonOf(error);
}

export function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

export const readText = (file: string): string => readFileSync(file, 'utf8').trimEnd();
export const readOrEmpty = (file: string): string => {
  try {
    return readText(file);
  } catch {
    return '';
  }
};
export const namesIn = (directory: string): string[] => (existsSync(directory) ? readdirSync(directory) : []);
export const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '');
