/**
 * Reads the CDI files of the node when a container asks for devices. What has not changed since is not read again.
 *
 * Writes nothing, and knows nothing of what is in the files.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import type { DeviceEdits } from '../engine/state/spec.ts';
import { reasonOf } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { type Catalog, editsOf, type FoundFile } from './catalog.ts';
import { readDeviceFile } from './device-file.ts';

export type DeviceFiles = {
  /** @throws {BerthError} as editsOf(). */
  readonly resolve: (names: readonly string[]) => Promise<DeviceEdits>;
};

/** The files of a large node have some hundred KiB. */
const fileBytesMax = 16 * 1024 * 1024;

type Deps = { readonly log: Pick<Log, 'warn'> };
/** `stamp` changes when the file does. */
type Read = { readonly stamp: string; readonly found: FoundFile };

/** @param directories those later in the list have precedence. They need not exist. */
export function createDeviceFiles({ log }: Deps, directories: readonly string[]): DeviceFiles {
  let known: ReadonlyMap<string, Read> = new Map();

  const readChanged = async (directory: string, name: string): Promise<Read> => {
    const path = join(directory, name);
    const stamp = await stampOf(path);
    const before = known.get(path);
    if (before?.stamp === stamp) return before;
    const found = await readOne(path, directory);
    if (found.failure !== undefined) log.warn({ path, reason: found.failure }, 'a CDI file is not read; its devices are not there');
    return { stamp, found };
  };

  const readAll = async (): Promise<Catalog> => {
    // Files come and go with each claim for a device: what is gone is forgotten.
    const read = new Map<string, Read>();
    const failed: FoundFile[] = [];
    for (const directory of directories) {
      try {
        for (const name of await deviceFilesIn(directory)) read.set(join(directory, name), await readChanged(directory, name));
      } catch (error) {
        failed.push({ path: directory, directory, failure: reasonOf(error) });
      }
    }
    known = read;
    return { directories, files: [...failed, ...[...read.values()].map(({ found }) => found)] };
  };

  return { resolve: async (names) => editsOf(names, await readAll()) };
}

/** @throws for a directory that is there and cannot be read. */
async function deviceFilesIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names.filter((name) => ['.json', '.yaml'].includes(extname(name))).sort();
}

/** '' for what is not there. */
async function stampOf(path: string): Promise<string> {
  const { mtimeNs, ctimeNs, size, ino } = await stat(path, { bigint: true }).catch(() => ({ mtimeNs: '', ctimeNs: '', size: '', ino: '' }));
  return [mtimeNs, ctimeNs, size, ino].join(' ').trim();
}

/** Never throws. */
async function readOne(path: string, directory: string): Promise<FoundFile> {
  try {
    const file = await stat(path);
    // Reading a pipe would wait for somebody to write.
    if (!file.isFile()) throw new Error('it is no file');
    const { size } = file;
    if (size > fileBytesMax) throw new Error(`it has ${size} bytes; more than ${fileBytesMax} are not read`);
    return { path, directory, file: readDeviceFile(await parse(path, await readFile(path, 'utf8'))) };
  } catch (error) {
    return { path, directory, failure: reasonOf(error).split('\n')[0] ?? '' };
  }
}

/** YAML as Go reads it, whose programs write these files: 0660 is octal, and 1:2 is a text. Loaded for the first file of that kind. */
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
