/**
 * Layer directories, `<root>/layers/<hex of the diff id>/diff`: staged beside their place, published whole, leased, removed.
 *
 * What has its place is complete. Nobody waits for the disk: until one syncfs(2) behind them is done, layers bear a mark with the name of the
 * kernel's life, and after a crash of the machine those with a mark of another life are fetched anew. Knows nothing of images; nothing that takes
 * long runs on this thread.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, renameSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { createKeyedQueue } from '../../lib/queue.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { readBootId } from '../../sys/process/boot-id.ts';
import { isDigest } from '../document/reference.ts';
import { parseJsonObject, toSizeBytes } from '../document/untrusted-json.ts';
import type { Unpacker } from '../unpack/unpack.ts';

export type LayerFacts = {
  /** What it takes on disk. */
  readonly sizeBytes: number;
  readonly inodes: number;
  /** Nothing of the layers below it is to be seen. */
  readonly isRootOpaque: boolean;
  /** Of its archive, by which it was made and can be put together again; undefined for layers of before that could be done. */
  readonly tarBytes?: number;
};

export type StagedLayer = { readonly diffId: string; readonly stagingDir: string; readonly facts: LayerFacts };

export type LayerStore = {
  /** Undefined when the layer is not there. */
  readonly facts: (diffId: string) => LayerFacts | undefined;
  /** The unpacked files of a layer, there or not. */
  readonly filesDir: (diffId: string) => string;
  /** By which, with the files, a layer's archive can be put together again. */
  readonly tarSplitFile: (diffId: string) => string;
  readonly usage: () => { readonly sizeBytes: number; readonly inodes: number };
  /** Keeps layers from removal, there or not, until release() of the same owner; a second lease adds to the first. In memory only. */
  readonly lease: (ownerId: string, diffIds: readonly string[]) => void;
  /** Removes nothing: that is removeUnused()'s. Idempotent. */
  readonly release: (ownerId: string) => void;
  /** A new directory with an empty one for the files in it; it is nobody's but the caller's until discard() or publish(). */
  readonly stage: () => Promise<{ readonly stagingDir: string; readonly filesDir: string; readonly tarSplitFile: string }>;
  /** Puts a layer in its place; when one has come there in the meantime, it is left to discard(). It outlives this process, and once synced() the machine. */
  readonly publish: (layer: StagedLayer) => Promise<void>;
  /** Brings to the disk what was published; resolves when all of it is there, or could not be brought there (then the log says so, and the next start tries again). */
  readonly synced: () => Promise<void>;
  /** Idempotent. */
  readonly discard: (stagingDir: string) => Promise<void>;
  /** Layers that nobody has leased. */
  readonly unleased: () => string[];
  /** Counts layers whose files somebody has deleted as not there, so that a pull brings them again; what is left of them goes. */
  readonly forgetDeleted: (diffIds: readonly string[]) => Promise<void>;
  /** Removes layers that are neither used nor leased. They are gone at once; resolves when their space is free. */
  readonly removeUnused: (isUsed: (diffId: string) => boolean) => Promise<void>;
  /** Removes what an earlier daemon left half done. */
  readonly removeLeftovers: () => Promise<void>;
};

const layerVersion = 1;
const factsFile = 'layer.json';
const filesName = 'diff';
const contentsName = 'archive';
/** Beside the files of a layer that may not be on disk yet: holds the boot id of the kernel that has it in memory. */
const unsyncedFile = 'unsynced';

export type LayerStoreDeps = {
  readonly root: string;
  readonly unpacker: Pick<Unpacker, 'remove' | 'sync'>;
  readonly log?: Log;
  /** Changes the kernel's own, for tests. */
  readonly bootId?: string;
};

/** Reads what is there; a directory that is no complete layer is only remembered for removeLeftovers(). */
export async function openLayerStore(deps: LayerStoreDeps): Promise<LayerStore> {
  const root = join(deps.root, 'layers');
  // Set-id programs of images lie below: no user of the node may reach them.
  await mkdir(root, { recursive: true, mode: 0o700 });
  const bootId = deps.bootId ?? readBootId();
  const { layers, leftovers, unsynced } = await readLayers(root, bootId, deps.log);
  const leases = new Map<string, Set<string>>();
  const staging = new Set<string>();

  const placeOf = (diffId: string): string => join(root, hexOf(diffId));
  const isLeased = (diffId: string): boolean => [...leases.values()].some((leased) => leased.has(diffId));

  const unleased = (): string[] => [...layers.keys()].filter((diffId) => !isLeased(diffId));

  const lease = (ownerId: string, diffIds: readonly string[]): void => {
    const leased = leases.get(ownerId) ?? new Set();
    for (const diffId of diffIds) leased.add(diffId);
    leases.set(ownerId, leased);
  };

  const stage = async () => {
    const stagingDir = join(root, `new-${randomName()}`);
    staging.add(stagingDir);
    const filesDir = join(stagingDir, filesName);
    await mkdir(filesDir, { recursive: true, mode: 0o755 });
    return { stagingDir, filesDir, tarSplitFile: join(stagingDir, contentsName) };
  };

  const discard = async (stagingDir: string): Promise<void> => {
    if (!staging.has(stagingDir)) return;
    await deps.unpacker.remove(stagingDir);
    staging.delete(stagingDir);
  };

  const publish = async (layer: StagedLayer): Promise<void> => {
    // Before the place: file systems keep the order of names, so none is in its place after a crash without its mark.
    await writeFile(join(layer.stagingDir, unsyncedFile), bootId);
    await writeFacts(layer);
    if (!layers.has(layer.diffId)) place(layer);
  };

  const place = (layer: StagedLayer): void => {
    renameSync(layer.stagingDir, placeOf(layer.diffId));
    staging.delete(layer.stagingDir);
    layers.set(layer.diffId, layer.facts);
    unsynced.add(layer.diffId);
  };

  /** @returns where what is to be removed lies, if somebody else has not removed it. */
  const takeFromPlace = (diffId: string): string => {
    const aside = join(root, `old-${randomName()}`);
    try {
      renameSync(placeOf(diffId), aside);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
    layers.delete(diffId);
    unsynced.delete(diffId);
    return aside;
  };

  const forgetDeleted = async (diffIds: readonly string[]): Promise<void> => {
    for (const diffId of diffIds) {
      if (!layers.has(diffId) || existsSync(join(placeOf(diffId), filesName))) continue;
      deps.log?.warn({ diffId }, 'a layer was deleted by somebody else; it is fetched again');
      await deps.unpacker.remove(takeFromPlace(diffId));
    }
  };

  const syncing = createKeyedQueue();
  const synced = (): Promise<void> =>
    syncing
      .run(root, async () => {
        const waiting = [...unsynced];
        if (waiting.length === 0) return;
        await deps.unpacker.sync(root);
        for (const diffId of waiting) {
          await rm(join(placeOf(diffId), unsyncedFile), { force: true });
          unsynced.delete(diffId);
        }
      })
      .catch((error: unknown) => deps.log?.warn({ reason: reasonOf(error) }, 'layers could not be synced to the disk'));

  const removeUnused = async (isUsed: (diffId: string) => boolean): Promise<void> => {
    const unused = unleased().filter((diffId) => !isUsed(diffId));
    // No await between the check and this: whoever needs the layer from here on fetches it again.
    const away = unused.map(takeFromPlace);
    await Promise.all(away.map((path) => deps.unpacker.remove(path)));
  };

  const removeLeftovers = async (): Promise<void> => {
    const names = leftovers.splice(0).map((name) => join(root, name));
    await Promise.all(names.filter((path) => !staging.has(path)).map((path) => deps.unpacker.remove(path)));
    // What an earlier daemon of this kernel's life did not live to sync.
    void synced();
  };

  return {
    facts: (diffId) => layers.get(diffId),
    tarSplitFile: (diffId) => join(placeOf(diffId), contentsName),
    filesDir: (diffId) => join(placeOf(diffId), filesName),
    usage: () => sum(layers.values()),
    lease,
    release: (ownerId) => void leases.delete(ownerId),
    stage,
    publish,
    synced,
    discard,
    unleased,
    forgetDeleted,
    removeUnused,
    removeLeftovers,
  };
}

/** The name of a layer's directory; lengths keep the two algorithms apart. */
function hexOf(diffId: string): string {
  if (!isDigest(diffId)) throw failedPrecondition(`diff id ${JSON.stringify(diffId)} is no digest`);
  return diffId.slice(diffId.indexOf(':') + 1);
}

function diffIdOf(name: string): string | undefined {
  const diffId = `${name.length === 64 ? 'sha256' : 'sha512'}:${name}`;
  return isDigest(diffId) ? diffId : undefined;
}

function randomName(): string {
  return randomBytes(12).toString('hex');
}

type FoundLayers = { readonly layers: Map<string, LayerFacts>; readonly unsynced: Set<string>; readonly leftovers: string[] };

async function readLayers(root: string, bootId: string, log: Log | undefined): Promise<FoundLayers> {
  const layers = new Map<string, LayerFacts>();
  const unsynced = new Set<string>();
  const leftovers: string[] = [];
  for (const name of await readdir(root)) {
    const diffId = diffIdOf(name);
    if (diffId === undefined) {
      leftovers.push(name);
      continue;
    }
    try {
      const mark = await readMark(join(root, name, unsyncedFile));
      if (mark !== undefined && mark !== bootId) throw failedPrecondition('it was not on disk when the machine ended');
      layers.set(diffId, await readFacts(join(root, name, factsFile)));
      if (mark !== undefined) unsynced.add(diffId);
    } catch (error) {
      log?.warn({ diffId, reason: reasonOf(error) }, 'a layer that cannot be read is set aside, and fetched again when it is needed');
      // Its place must be free for the layer that is fetched again.
      const aside = `old-${randomName()}`;
      renameSync(join(root, name), join(root, aside));
      leftovers.push(aside);
    }
  }
  return { layers, unsynced, leftovers };
}

/** Undefined when there is none. */
async function readMark(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

async function readFacts(path: string): Promise<LayerFacts> {
  const document = parseJsonObject(await readFile(path), 'layer record');
  if (document.version !== layerVersion)
    throw failedPrecondition(`layer record: has version ${String(document.version)}; this berth reads ${layerVersion}`);
  return {
    sizeBytes: toSizeBytes(document.sizeBytes, 'layer record sizeBytes'),
    inodes: toSizeBytes(document.inodes, 'layer record inodes'),
    isRootOpaque: document.isRootOpaque === true,
    ...(document.tarBytes === undefined ? {} : { tarBytes: toSizeBytes(document.tarBytes, 'layer record tarBytes') }),
  };
}

async function writeFacts(layer: StagedLayer): Promise<void> {
  await writeFile(join(layer.stagingDir, factsFile), JSON.stringify({ ...layer.facts, version: layerVersion, diffId: layer.diffId }));
}

/** Names made or removed in a directory are on disk afterwards. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function sum(layers: Iterable<LayerFacts>): { sizeBytes: number; inodes: number } {
  let [sizeBytes, inodes] = [0, 0];
  for (const layer of layers) {
    sizeBytes += layer.sizeBytes;
    inodes += layer.inodes;
  }
  return { sizeBytes, inodes };
}
