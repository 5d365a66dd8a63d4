/**
 * Reads the CDI files of the node when a container asks for devices. What has not changed since is not read again.
 *
 * Writes nothing, and knows nothing of what is in the files.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import type { DeviceEdits } from '../engine/spec.ts';
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
  const known = new Map<string, Read>();

  const readChanged = async (directory: string, name: string): Promise<FoundFile> => {
    const path = join(directory, name);
    try {
      const { mtimeNs, ctimeNs, size, ino } = await stat(path, { bigint: true });
      const stamp = [mtimeNs, ctimeNs, size, ino].join(' ');
      const before = known.get(path);
      if (before?.stamp === stamp) return before.found;
      const found = await readOne(path, directory, Number(size));
      if (found.failure !== undefined) log.warn({ path, reason: found.failure }, 'a CDI file is not read; its devices are not there');
      known.set(path, { stamp, found });
      return found;
    } catch (error) {
      // Gone since the directory was read.
      known.delete(path);
      return { path, directory, failure: reasonOf(error) };
    }
  };

  const readAll = async (): Promise<Catalog> => {
    const files: FoundFile[] = [];
    for (const directory of directories) {
      for (const name of await deviceFilesIn(directory)) files.push(await readChanged(directory, name));
    }
    return { directories, files };
  };

  return { resolve: async (names) => editsOf(names, await readAll()) };
}

async function deviceFilesIn(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch(() => []);
  return names.filter((name) => ['.json', '.yaml'].includes(extname(name))).sort();
}

/** Never throws. */
async function readOne(path: string, directory: string, bytes: number): Promise<FoundFile> {
  try {
    if (bytes > fileBytesMax) throw new Error(`it has ${bytes} bytes; more than ${fileBytesMax} are not read`);
    return { path, directory, file: readDeviceFile(await parse(path, await readFile(path, 'utf8'))) };
  } catch (error) {
    return { path, directory, failure: reasonOf(error).split('\n')[0] ?? '' };
  }
}

/** YAML as Go reads it, whose programs write these files: 0660 is octal, and 1:2 is a text. Loaded for the first file of that kind. */
async function parse(path: string, text: string): Promise<unknown> {
  if (extname(path) === '.json') return JSON.parse(text);
  const yaml = await import('yaml');
  const withoutTimes: Parameters<typeof yaml.parse>[2] = { version: '1.1', customTags: (tags) => tags.filter((tag) => !isTime(tag)) };
  return yaml.parse(text, withoutTimes);
}

function isTime(tag: unknown): boolean {
  if (typeof tag === 'string') return ['intTime', 'floatTime', 'timestamp'].includes(tag);
  const { format, tag: name } = tag as { format?: string; tag?: string };
  return format === 'TIME' || name === 'tag:yaml.org,2002:timestamp';
}
