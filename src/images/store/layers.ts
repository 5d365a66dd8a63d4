/**
 * The layer directories, `<root>/layers/<hex of the diff id>`: stages, publishes, leases and removes them.
 *
 * A directory with its final name is complete. Pulls do not wait for the disk: until a syncfs(2) has succeeded, a layer has a mark with the boot id.
 * After a crash of the machine, layers with the mark of another boot are re-fetched. Independent of images. Long operations do not run on this thread.
 */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, renameSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { createKeyedQueue } from '../../lib/queue.ts';
import { isErrno } from '../../sys/call/ffi.ts';
import { makePrivateDirectory } from '../../sys/filesystem/private-directory.ts';
import { readBootId } from '../../sys/process/boot-id.ts';
import { isDigest } from '../document/reference.ts';
import { parseJsonObject, toSizeBytes } from '../document/untrusted-json.ts';
import type { Unpacker } from '../unpack/unpack.ts';

export type LayerFacts = {
  /** Space on disk. */
  readonly sizeBytes: number;
  readonly inodes: number;
  /** The layer hides everything of the layers below. */
  readonly isRootOpaque: boolean;
  /** Size of the uncompressed archive. Undefined for a layer from an older version that cannot be reassembled. */
  readonly tarBytes?: number;
  /** Some directories have no entry in the layer's archive. Their list is in a file. Absent for a layer from an older version. */
  readonly hasImpliedDirectories?: boolean;
};

export type StagedLayer = { readonly diffId: string; readonly stagingDir: string; readonly facts: LayerFacts };

/** The paths of a new, empty layer. The files go to `filesDir`. */
type Staging = { readonly stagingDir: string; readonly filesDir: string; readonly tarSplitFile: string; readonly impliedFile: string };

const layerVersion = 1;
/** The most layers that Linux stacks in one overlay. Source: fs/overlayfs/params.h, OVL_MAX_STACK. */
const layersMax = 500;
const factsFile = 'layer.json';
const filesName = 'diff';
const tarSplitName = 'archive';
const impliedName = 'implied';
/** In the directory of a layer that may not be on disk yet. Contains the boot id of the kernel that wrote it. */
const unsyncedFile = 'unsynced';

export type LayerStoreDeps = {
  readonly root: string;
  readonly unpacker: Pick<Unpacker, 'remove' | 'sync' | 'restoreParents'>;
  readonly log?: Log;
  /** Overrides the kernel's boot id, for tests. */
  readonly bootId?: string;
};

/** Opens the store and reads the layers. Incomplete directories are left for removeLeftovers(). */
export async function openLayerStore(deps: LayerStoreDeps): Promise<LayerStore> {
  const root = join(deps.root, 'layers');
  // Set-id programs of images are below. Users of the node must not reach them.
  makePrivateDirectory(root);
  const bootId = deps.bootId ?? readBootId();
  return new LayerStore({ ...deps, root, bootId }, await readLayers(root, bootId, deps.log));
}

/** Created by openLayerStore(). */
export class LayerStore {
  readonly #root: string;
  readonly #bootId: string;
  readonly #unpacker: LayerStoreDeps['unpacker'];
  readonly #log: Log | undefined;
  readonly #layers: Map<string, LayerFacts>;
  readonly #unsynced: Set<string>;
  readonly #leftovers: string[];
  readonly #leases = new Map<string, Set<string>>();
  readonly #staging = new Set<string>();
  readonly #syncs = createKeyedQueue();
  readonly #parents = createKeyedQueue();

  /** @param deps.root the directory of the layers. */
  constructor(deps: LayerStoreDeps & { readonly bootId: string }, found: FoundLayers) {
    this.#root = deps.root;
    this.#bootId = deps.bootId;
    this.#unpacker = deps.unpacker;
    this.#log = deps.log;
    this.#layers = found.layers;
    this.#unsynced = found.unsynced;
    this.#leftovers = found.leftovers;
  }

  /** Returns undefined if the layer does not exist. */
  facts(diffId: string): LayerFacts | undefined {
    return this.#layers.get(diffId);
  }

  /** Returns the directory of the layer's files, whether or not the layer exists. */
  filesDir(diffId: string): string {
    return join(this.#directoryOf(diffId), filesName);
  }

  /** Returns the record from which, with the files, the layer's archive can be reassembled. */
  tarSplitFile(diffId: string): string {
    return join(this.#directoryOf(diffId), tarSplitName);
  }

  /**
   * Returns the directories of the files that an image shows, topmost first.
   *
   * @param diffIds of the image, lowest first.
   */
  directoriesOf(diffIds: readonly string[]): string[] {
    const visible = this.#visible(diffIds);
    const parents = this.#parentsDir(visible);
    const directories = visible.map((diffId) => this.filesDir(diffId));
    return parents !== undefined && existsSync(parents) ? [parents, ...directories] : directories;
  }

  /**
   * Makes an image show directories that a layer has without an entry as the layers below have them. To be called when all layers of the image exist.
   *
   * @throws {BerthError} RESOURCE_EXHAUSTED for an image with too many such directories.
   */
  async restoreParents(diffIds: readonly string[]): Promise<void> {
    const visible = this.#visible(diffIds);
    const target = this.#parentsDir(visible);
    if (target === undefined) return;
    await this.#parents.run(target, async () => {
      if (existsSync(target)) return;
      const layers = visible.map((diffId) => ({ filesDir: this.filesDir(diffId), impliedFile: join(this.#directoryOf(diffId), impliedName) }));
      const [top = ''] = visible;
      // As in publish(): after a crash, a layer whose directory of attributes may be incomplete is re-fetched.
      await writeFile(join(this.#directoryOf(top), unsyncedFile), this.#bootId);
      this.#unsynced.add(top);
      await this.#unpacker.restoreParents({ layers, target });
    });
  }

  usage(): { readonly sizeBytes: number; readonly inodes: number } {
    return sum(this.#layers.values());
  }

  /**
   * Keeps layers from removal, whether or not they exist, until release() of the same owner. A second lease adds to the first. Leases are only in
   * memory.
   */
  lease(ownerId: string, diffIds: readonly string[]): void {
    const leased = this.#leases.get(ownerId) ?? new Set();
    for (const diffId of diffIds) leased.add(diffId);
    this.#leases.set(ownerId, leased);
  }

  /** Ends the leases of an owner. removeUnused() removes the layers. Idempotent. */
  release(ownerId: string): void {
    this.#leases.delete(ownerId);
  }

  /** Returns the layers without a lease. */
  unleased(): string[] {
    const leases = [...this.#leases.values()];
    return [...this.#layers.keys()].filter((diffId) => !leases.some((leased) => leased.has(diffId)));
  }

  /** Creates a directory for a new layer. It belongs to the caller until discard() or publish(). */
  async stage(): Promise<Staging> {
    const stagingDir = join(this.#root, `new-${randomName()}`);
    this.#staging.add(stagingDir);
    const filesDir = join(stagingDir, filesName);
    await mkdir(filesDir, { recursive: true, mode: 0o755 });
    return { stagingDir, filesDir, tarSplitFile: join(stagingDir, tarSplitName), impliedFile: join(stagingDir, impliedName) };
  }

  /** Removes a staged layer, unless it has been published. Idempotent. */
  async discard(stagingDir: string): Promise<void> {
    if (!this.#staging.has(stagingDir)) return;
    await this.#unpacker.remove(stagingDir);
    this.#staging.delete(stagingDir);
  }

  /**
   * Gives a staged layer its final name. If the layer exists by now, the staged one is left for discard(). A published layer survives the daemon, and
   * after synced() also a crash of the machine.
   */
  async publish(layer: StagedLayer): Promise<void> {
    // Before the rename: file systems keep the order of names, so that after a crash no layer has its name without its mark.
    await writeFile(join(layer.stagingDir, unsyncedFile), this.#bootId);
    await writeFacts(layer);
    if (!this.#layers.has(layer.diffId)) this.#place(layer);
  }

  /** Writes all published layers to disk. Resolves also after a failure: it is logged, and the next start tries again. */
  synced(): Promise<void> {
    return this.#syncs
      .run(this.#root, () => this.#sync())
      .catch((error: unknown) => this.#log?.warn({ reason: reasonOf(error) }, 'failed to sync layers to disk'));
  }

  /** Forgets layers whose files another process has deleted, so that the next pull fetches them again. Removes the rest of them. */
  async forgetDeleted(diffIds: readonly string[]): Promise<void> {
    for (const diffId of diffIds) {
      if (!this.#layers.has(diffId) || existsSync(this.filesDir(diffId))) continue;
      this.#log?.warn({ diffId }, 'layer files deleted by another process, layer will be re-fetched');
      await this.#unpacker.remove(this.#moveAside(diffId));
    }
  }

  /** Removes layers that are neither used nor leased. They are forgotten immediately. Resolves when their space is free. */
  async removeUnused(isUsed: (diffId: string) => boolean): Promise<void> {
    const unused = this.unleased().filter((diffId) => !isUsed(diffId));
    // No await since the check: whoever needs the layer from now on re-fetches it.
    const paths = unused.map((diffId) => this.#moveAside(diffId));
    await Promise.all(paths.map((path) => this.#unpacker.remove(path)));
  }

  /** Removes the incomplete layers of an earlier daemon. */
  async removeLeftovers(): Promise<void> {
    const paths = this.#leftovers.splice(0).map((name) => join(this.#root, name));
    await Promise.all(paths.filter((path) => !this.#staging.has(path)).map((path) => this.#unpacker.remove(path)));
    // For layers that an earlier daemon has published since this boot, but not synced.
    void this.synced();
  }

  /** Without layers below one that hides them. overlayfs refuses the same layer twice; the lower one of two adds nothing. */
  #visible(diffIds: readonly string[]): string[] {
    const topmostFirst = [...new Set([...diffIds].reverse())];
    const opaque = topmostFirst.findIndex((diffId) => this.facts(diffId)?.isRootOpaque === true);
    return opaque < 0 ? topmostFirst : topmostFirst.slice(0, opaque + 1);
  }

  /**
   * Returns the directory with the attributes of lower layers: in that of the topmost layer, with which it is leased and removed. undefined if there is no
   * need for one, or the kernel stacks no more layers.
   */
  #parentsDir(visible: readonly string[]): string | undefined {
    const [top] = visible;
    const isNeeded = visible.slice(0, -1).some((diffId) => this.facts(diffId)?.hasImpliedDirectories === true);
    if (top === undefined || !isNeeded || visible.length >= layersMax) return undefined;
    return join(this.#directoryOf(top), `parents-${createHash('sha256').update(visible.join()).digest('hex').slice(0, 32)}`);
  }

  #directoryOf(diffId: string): string {
    return join(this.#root, hexOf(diffId));
  }

  #place(layer: StagedLayer): void {
    renameSync(layer.stagingDir, this.#directoryOf(layer.diffId));
    this.#staging.delete(layer.stagingDir);
    this.#layers.set(layer.diffId, layer.facts);
    this.#unsynced.add(layer.diffId);
  }

  async #sync(): Promise<void> {
    const diffIds = [...this.#unsynced];
    if (diffIds.length === 0) return;
    await this.#unpacker.sync(this.#root);
    for (const diffId of diffIds) {
      await rm(join(this.#directoryOf(diffId), unsyncedFile), { force: true });
      this.#unsynced.delete(diffId);
    }
  }

  /** Forgets a layer and renames its directory for removal. @returns the new path. It does not exist if another process has removed the directory. */
  #moveAside(diffId: string): string {
    const aside = join(this.#root, `old-${randomName()}`);
    try {
      renameSync(this.#directoryOf(diffId), aside);
    } catch (error) {
      if (!isErrno(error, 'ENOENT')) throw error;
    }
    this.#layers.delete(diffId);
    this.#unsynced.delete(diffId);
    return aside;
  }
}

/** Returns the name of a layer's directory. Its length distinguishes the two digest algorithms. */
function hexOf(diffId: string): string {
  if (!isDigest(diffId)) throw failedPrecondition(`invalid diff id ${JSON.stringify(diffId)}`);
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
      if (mark !== undefined && mark !== bootId) throw failedPrecondition('not synced to disk before the last reboot');
      layers.set(diffId, await readFacts(join(root, name, factsFile)));
      if (mark !== undefined) unsynced.add(diffId);
    } catch (error) {
      log?.warn({ diffId, reason: reasonOf(error) }, 'unreadable layer moved aside; it is re-fetched when needed');
      // The name must be free for the re-fetched layer.
      const aside = `old-${randomName()}`;
      renameSync(join(root, name), join(root, aside));
      leftovers.push(aside);
    }
  }
  return { layers, unsynced, leftovers };
}

/** Returns the boot id in a layer's mark, undefined if there is no mark. */
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
    throw failedPrecondition(`layer record: unsupported version ${String(document.version)}; supported: ${layerVersion}`);
  return {
    sizeBytes: toSizeBytes(document.sizeBytes, 'layer record sizeBytes'),
    inodes: toSizeBytes(document.inodes, 'layer record inodes'),
    isRootOpaque: document.isRootOpaque === true,
    ...(document.hasImpliedDirectories === true ? { hasImpliedDirectories: true } : {}),
    ...(document.tarBytes === undefined ? {} : { tarBytes: toSizeBytes(document.tarBytes, 'layer record tarBytes') }),
  };
}

async function writeFacts(layer: StagedLayer): Promise<void> {
  await writeFile(join(layer.stagingDir, factsFile), JSON.stringify({ ...layer.facts, version: layerVersion, diffId: layer.diffId }));
}

/** Writes the names in a directory to disk: those that were created, and the absence of those that were removed. */
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
