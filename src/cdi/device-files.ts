/**
 * Reads the node's CDI files when a container requests devices. Unchanged files are not read again.
 *
 * Writes nothing. device-file.ts knows the format.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import type { DeviceEdits } from '../engine/state/spec.ts';
import { reasonOf } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { type Catalog, editsOf, type FoundFile } from './catalog.ts';
import { readDeviceFile } from './device-file.ts';

export type DeviceFiles = {
  /** Returns the edits of the named devices. @throws {BerthError} as editsOf(). */
  readonly resolve: (names: readonly string[]) => Promise<DeviceEdits>;
};

/** A limit for untrusted input: files of a large node have some hundred KiB. */
const fileBytesMax = 16 * 1024 * 1024;

type Deps = { readonly log: Pick<Log, 'warn'> };
/** `stamp` changes when the file does. */
type CachedFile = { readonly stamp: string; readonly found: FoundFile };

/** @param directories later ones have precedence. They need not exist. */
export function createDeviceFiles({ log }: Deps, directories: readonly string[]): DeviceFiles {
  let cache: ReadonlyMap<string, CachedFile> = new Map();

  const readIfChanged = async (directory: string, name: string): Promise<CachedFile> => {
    const path = join(directory, name);
    const stamp = await stampOf(path);
    const cached = cache.get(path);
    if (cached?.stamp === stamp) return cached;
    const found = await readOne(path, directory);
    if (found.failure !== undefined) log.warn({ path, reason: found.failure }, 'invalid CDI file: its devices are unavailable');
    return { stamp, found };
  };

  const readAll = async (): Promise<Catalog> => {
    // Files come and go with each device claim: entries of removed files are dropped.
    const read = new Map<string, CachedFile>();
    const failed: FoundFile[] = [];
    for (const directory of directories) {
      try {
        for (const name of await deviceFilesIn(directory)) read.set(join(directory, name), await readIfChanged(directory, name));
      } catch (error) {
        failed.push({ path: directory, directory, failure: reasonOf(error) });
      }
    }
    cache = read;
    return { directories, files: [...failed, ...[...read.values()].map(({ found }) => found)] };
  };

  return { resolve: async (names) => editsOf(names, await readAll()) };
}

/** @throws when the directory exists but cannot be read. */
async function deviceFilesIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names.filter((name) => ['.json', '.yaml'].includes(extname(name))).sort();
}

/** @returns '' for a missing file. */
async function stampOf(path: string): Promise<string> {
  const { mtimeNs, ctimeNs, size, ino } = await stat(path, { bigint: true }).catch(() => ({ mtimeNs: '', ctimeNs: '', size: '', ino: '' }));
  return [mtimeNs, ctimeNs, size, ino].join(' ').trim();
}

/** Never throws. */
async function readOne(path: string, directory: string): Promise<FoundFile> {
  try {
    const file = await stat(path);
    // Reading a FIFO would wait for a writer.
    if (!file.isFile()) throw new Error('not a regular file');
    const { size } = file;
    if (size > fileBytesMax) throw new Error(`size of ${size} bytes exceeds the limit of ${fileBytesMax}`);
    return { path, directory, file: readDeviceFile(await parse(path, await readFile(path, 'utf8'))) };
  } catch (error) {
    return { path, directory, failure: reasonOf(error).split('\n')[0] ?? '' };
  }
}

/** Parses YAML as Go does, because Go programs write these files: 0660 is octal, 1:2 is a string. The parser is loaded on demand. */
async function parse(path: string, text: string): Promise<unknown> {
  if (extname(path) === '.json') return JSON.parse(text);
  const yaml = await import('yaml');
  const asGo: Parameters<typeof yaml.parse>[2] = { version: '1.1', logLevel: 'error', customTags: (tags) => tags.filter((tag) => !isTime(tag)) };
  return yaml.parse(text, asGo);
}

function isTime(tag: unknown): boolean {
  if (typeof tag === 'string') return ['intTime', 'floatTime', 'timestamp'].includes(tag);
  const { format, tag: name } = tag as { format?: string; tag?: string };
  return format === 'TIME' || name === 'tag:yaml.org,2002:timestamp';
}
