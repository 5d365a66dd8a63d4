/**
 * Stores attachments on disk: the sandbox, its network list and the result of ADD. DEL and CHECK use them instead of the configuration directory.
 *
 * The directory must belong to berth alone: every entry in it counts as a sandbox of this node.
 * Never runs a plugin.
 */
import { open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { failedTo } from '../lib/errors.ts';
import { makePrivateDirectory } from '../sys/filesystem/private-directory.ts';
import { type CacheEntry, encodeEntry, entryName, parseEntry, parseEntryName } from './cache-entry.ts';

/** An entry as identified by its file name, which is known even if the content cannot be read. */
export type StoredEntry = {
  readonly fileName: string;
  readonly networkName: string;
  readonly containerId: string;
  readonly ifName: string;
};

export type Cache = {
  /**
   * Creates or replaces the attachment's entry atomically: a reader sees the old or the new entry, also after a crash of the daemon.
   *
   * @param survivesPowerLoss syncs the file and its directory.
   */
  readonly put: (entry: CacheEntry, options: { readonly survivesPowerLoss: boolean }) => Promise<void>;
  readonly list: () => Promise<readonly StoredEntry[]>;
  /** @throws {BerthError} INTERNAL when the entry cannot be read or is invalid. */
  readonly read: (stored: StoredEntry) => Promise<CacheEntry>;
  /** Succeeds when the entry does not exist. */
  readonly remove: (fileName: string) => Promise<void>;
};

/** Opens `<cacheDir>/results`, the directory layout of libcni, and creates it if needed. */
export async function openCache(cacheDir: string): Promise<Cache> {
  const dir = join(cacheDir, 'results');
  // Private: entries contain arguments of pods.
  for (const each of [cacheDir, dir]) makePrivateDirectory(each);
  await removeTemporaries(dir);
  return {
    put: (entry, options) => put(dir, entry, options),
    list: () => list(dir),
    read: (stored) => read(dir, stored),
    remove: (fileName) => rm(join(dir, fileName), { force: true }),
  };
}

const temporaryPrefix = '.new-';

async function put(dir: string, entry: CacheEntry, { survivesPowerLoss }: { survivesPowerLoss: boolean }): Promise<void> {
  const fileName = entryName(entry.list.name, entry.attachment);
  // An attachment has one writer at a time: the temporary name need not be unique.
  const temporary = join(dir, `${temporaryPrefix}${fileName}`);
  try {
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(encodeEntry(entry));
      if (survivesPowerLoss) await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(dir, fileName));
    if (survivesPowerLoss) await syncDirectory(dir);
  } catch (error) {
    throw failedTo(`write CNI attachment ${join(dir, fileName)}`, error);
  }
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function list(dir: string): Promise<readonly StoredEntry[]> {
  const names = (await readdir(dir)).sort();
  return names.flatMap((fileName) => {
    const parsed = parseEntryName(fileName);
    return parsed === null ? [] : [{ fileName, ...parsed }];
  });
}

async function read(dir: string, { fileName }: StoredEntry): Promise<CacheEntry> {
  try {
    return parseEntry(await readFile(join(dir, fileName), 'utf8'));
  } catch (error) {
    throw failedTo(`read CNI attachment ${join(dir, fileName)}`, error);
  }
}

/** Removes files left by a daemon that ended while writing. */
async function removeTemporaries(dir: string): Promise<void> {
  const names = (await readdir(dir)).filter((name) => name.startsWith(temporaryPrefix));
  await Promise.all(names.map((name) => rm(join(dir, name), { force: true })));
}
