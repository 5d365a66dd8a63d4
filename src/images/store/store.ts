/**
 * The images of the node: their records on disk, `<root>/images/<hex>.json`, a view of them in memory, and which layers they use.
 *
 * Never contacts a registry. A record is replaced atomically, and is on disk before it is visible. Then other images lose the tags that it took over.
 */
import { open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageRoot } from '../../engine/state/spec.ts';
import { reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { createKeyedQueue } from '../../lib/queue.ts';
import { makePrivateDirectory } from '../../sys/filesystem/private-directory.ts';
import { findReference, formatDigest, formatTag, isImageId, toImageIdPrefix } from '../document/reference.ts';
import type { Signature } from '../signature/signature.ts';
import type { Unpacker } from '../unpack/unpack.ts';
import {
  type ImageLayer,
  type ImageRecord,
  idOfConfig,
  imageRecordVersion,
  parseStoredImage,
  recordFileName,
  type StoredImage,
  salvageDiffIds,
  toEngineConfig,
  toImageRecord,
} from './image-record.ts';
import { type LayerStore, openLayerStore, syncDirectory } from './layers.ts';

export type ImageStoreDeps = {
  /** Contains `images` and `layers`. */
  readonly root: string;
  readonly unpacker: Pick<Unpacker, 'remove' | 'sync' | 'restoreParents'>;
  readonly log?: Log;
  /** Full names with tag of images that are excluded from garbage collection. A `*` at the end matches any suffix. */
  readonly pinnedImages?: readonly string[];
  /** Overrides the kernel's boot id, for tests. */
  readonly bootId?: string;
  /** How long the complete layers of a failed pull are kept for the next attempt. Default: 15 minutes. */
  readonly keepUnfinishedMs?: number;
};

/** The kubelet waits at most five minutes between two attempts. */
const keepUnfinishedMsDefault = 15 * 60_000;

/** A pulled image. Its layers are in the store, and leased by the caller. */
export type NewImage = {
  readonly config: Buffer;
  readonly layers: readonly ImageLayer[];
  /** In the form of formatTag(). */
  readonly tag: string | undefined;
  /** In the form of formatDigest(). Undefined for an image from an archive without digests. */
  readonly digest: string | undefined;
  /** The signatures by which a policy accepted the image. */
  readonly signatures?: readonly Signature[];
};

/**
 * Opens the store and reads the images. An unreadable record is left on disk, and its layers are kept.
 *
 * @throws if the directories cannot be created or read.
 */
export async function createImageStore(deps: ImageStoreDeps): Promise<ImageStore> {
  const directory = join(deps.root, 'images');
  makePrivateDirectory(directory);
  const layers = await openLayerStore(deps);
  return new ImageStore(deps, layers, await readImages(directory, layers, deps));
}

/** Created by createImageStore(). */
export class ImageStore {
  readonly layers: LayerStore;
  readonly #deps: ImageStoreDeps;
  readonly #directory: string;
  readonly #stored: Map<string, StoredImage>;
  readonly #views: Map<string, ImageRecord>;
  /** Layers of unreadable records. */
  readonly #unreadableDiffIds: ReadonlySet<string>;
  readonly #writes = createKeyedQueue();

  constructor(deps: ImageStoreDeps, layers: LayerStore, found: FoundImages) {
    this.#deps = deps;
    this.#directory = join(deps.root, 'images');
    this.layers = layers;
    this.#stored = found.stored;
    this.#views = found.views;
    this.#unreadableDiffIds = found.unreadableDiffIds;
    for (const image of withoutLostTags([...this.#stored.values()])) this.#show(image);
  }

  /** Returns one record per image. @param reference restricts the list to the result of find(). */
  list(reference?: string): readonly ImageRecord[] {
    if (reference === undefined) return [...this.#views.values()];
    return [this.find(reference)].filter((image) => image !== undefined);
  }

  /** Finds an image by its id with or without `sha256:`, an unambiguous prefix of the id (7 digits or more), tag, digest, or tag and digest. */
  find(reference: string): ImageRecord | undefined {
    return findImage(this.#views, reference);
  }

  /** Adds names to an image, which is created if necessary. Other images lose the tag. */
  put(image: NewImage): Promise<ImageRecord> {
    return this.#inTurn(async () => {
      const named = withNames(this.#stored.get(idOfConfig(image.config)), image);
      const view = await this.#write(named);
      // Last: after a crash in between, two images have the tag, and the later record owns it.
      for (const other of [...this.#stored.values()].filter((each) => each.id !== named.id && sharesName(each, image))) {
        await this.#write(withoutNames(other, image));
      }
      // From here on the image keeps its layers.
      for (const { diffId } of image.layers) this.layers.release(unfinishedOwner(diffId));
      // Not awaited. After the record is on disk, which would otherwise have to wait for this sync.
      void this.layers.synced();
      return view;
    });
  }

  /** Removes the image with all its names, and the layers that nothing else uses. Succeeds if there is no such image. */
  remove(reference: string): Promise<void> {
    return this.#inTurn(async () => {
      const image = this.find(reference);
      if (image === undefined) return;
      await rm(join(this.#directory, recordFileName(image.id)), { force: true });
      this.#stored.delete(image.id);
      this.#views.delete(image.id);
      await syncDirectory(this.#directory);
      await this.#removeUnused();
    });
  }

  /** Returns the usage of everything below the root, as counted during unpacking. */
  async fsInfo(): Promise<{ readonly mountpoint: string; readonly usedBytes: number; readonly inodesUsed: number }> {
    const { sizeBytes, inodes } = this.layers.usage();
    return { mountpoint: this.#deps.root, usedBytes: sizeBytes + recordBytes(this.#stored.values()), inodesUsed: inodes + this.#stored.size };
  }

  /** Keeps layers until release() of the same owner, even if their image is removed. Leases are only in memory: renew them before collect() at start. */
  lease(ownerId: string, diffIds: readonly string[]): void {
    this.layers.lease(ownerId, diffIds);
  }

  /** Ends the leases of an owner, and removes the layers that nothing else uses. Idempotent. */
  async release(ownerId: string): Promise<void> {
    this.layers.release(ownerId);
    await this.#inTurn(() => this.#removeUnused());
  }

  /** Like release(), but keeps those of the layers that are complete for some time, for the next attempt. */
  async releaseUnfinished(ownerId: string, diffIds: readonly string[]): Promise<void> {
    this.#keepForRetry(diffIds);
    await this.release(ownerId);
  }

  /**
   * Removes what an earlier daemon left incomplete. Complete layers without an image and a lease are kept for some time, because they may belong to a
   * pull that it did not finish.
   */
  async collect(): Promise<void> {
    await this.#inTurn(async () => {
      // Temporary files of records: the earlier daemon ended during a write.
      for (const name of await readdir(this.#directory)) if (!name.endsWith('.json')) await rm(join(this.#directory, name), { force: true });
      const used = this.#usedDiffIds();
      this.#keepForRetry(this.layers.unleased().filter((diffId) => !used.has(diffId)));
      await this.#removeUnused();
    });
    await this.layers.removeLeftovers();
  }

  /** Returns what a container needs of the image: its config, and the directories of its layers. */
  rootOf(image: ImageRecord): ImageRoot {
    return { config: toEngineConfig(image), layerDirs: this.layers.directoriesOf(image.diffIds) };
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    return this.#writes.run('images', task);
  }

  async #write(image: StoredImage): Promise<ImageRecord> {
    await replaceDurably(this.#directory, recordFileName(image.id), JSON.stringify(image));
    return this.#show(image);
  }

  #show(image: StoredImage): ImageRecord {
    const view = toView(image, this.layers, this.#deps);
    this.#stored.set(image.id, image);
    this.#views.set(image.id, view);
    return view;
  }

  #usedDiffIds(): ReadonlySet<string> {
    const diffIds = [...this.#stored.values()].flatMap((image) => image.layers.map((layer) => layer.diffId));
    return new Set([...this.#unreadableDiffIds, ...diffIds]);
  }

  async #removeUnused(): Promise<void> {
    const used = this.#usedDiffIds();
    await this.layers.removeUnused((diffId) => used.has(diffId));
  }

  #keepForRetry(diffIds: readonly string[]): void {
    const keepMs = this.#deps.keepUnfinishedMs ?? keepUnfinishedMsDefault;
    if (keepMs === 0 || diffIds.length === 0) return;
    for (const diffId of diffIds) this.layers.lease(unfinishedOwner(diffId), [diffId]);
    setTimeout(() => this.#endRetry(diffIds), keepMs).unref();
  }

  #endRetry(diffIds: readonly string[]): void {
    for (const diffId of diffIds) this.layers.release(unfinishedOwner(diffId));
    this.#inTurn(() => this.#removeUnused()).catch((error: unknown) =>
      this.#deps.log?.warn({ reason: reasonOf(error) }, 'failed to remove layers of unfinished pulls'),
    );
  }
}

/** The owner of the lease on a layer of an unfinished pull. */
function unfinishedOwner(diffId: string): string {
  return `unfinished ${diffId}`;
}

type FoundImages = {
  readonly stored: Map<string, StoredImage>;
  readonly views: Map<string, ImageRecord>;
  /** Layers of unreadable records. */
  readonly unreadableDiffIds: ReadonlySet<string>;
};

async function readImages(directory: string, layers: LayerStore, deps: ImageStoreDeps): Promise<FoundImages> {
  const stored = new Map<string, StoredImage>();
  const views = new Map<string, ImageRecord>();
  const unreadableDiffIds = new Set<string>();
  for (const name of await readdir(directory)) {
    const bytes = await readFile(join(directory, name));
    if (!name.endsWith('.json')) continue;
    try {
      const image = parseStoredImage(bytes);
      if (isComplete(layers, image)) {
        views.set(image.id, toView(image, layers, deps));
        stored.set(image.id, image);
      } else {
        // It is unusable. Its layers are collected, and the next pull fetches it again.
        deps.log?.warn({ image: image.id }, 'image removed because layers are missing');
        await rm(join(directory, name), { force: true });
      }
    } catch (error) {
      for (const diffId of salvageDiffIds(bytes)) unreadableDiffIds.add(diffId);
      deps.log?.warn({ file: name, reason: reasonOf(error) }, 'unreadable image record ignored, its layers are kept');
    }
  }
  return { stored, views, unreadableDiffIds };
}

function toView(image: StoredImage, layers: LayerStore, { pinnedImages = [] }: ImageStoreDeps): ImageRecord {
  return toImageRecord(image, layersBytes(layers, image), isPinned(image, pinnedImages));
}

function findImage(views: ReadonlyMap<string, ImageRecord>, reference: string): ImageRecord | undefined {
  if (isImageId(reference)) return views.get(reference.startsWith('sha256:') ? reference : `sha256:${reference}`);
  const name = fullName(reference);
  const named =
    name === undefined ? undefined : [...views.values()].find((image) => image.repoTags.includes(name) || image.repoDigests.includes(name));
  if (named !== undefined) return named;
  const prefix = toImageIdPrefix(reference);
  const matches = prefix === undefined ? [] : [...views.values()].filter((image) => image.id.startsWith(prefix));
  return matches.length === 1 ? matches[0] : undefined;
}

/** Returns the full name with tag or digest; undefined if the reference is not a name. */
function fullName(reference: string): string | undefined {
  const parsed = findReference(reference);
  if (parsed === undefined) return undefined;
  return parsed.digest === undefined ? formatTag(parsed) : formatDigest(parsed, parsed.digest);
}

function withNames(before: StoredImage | undefined, image: NewImage): StoredImage {
  return {
    version: imageRecordVersion,
    id: idOfConfig(image.config),
    configText: image.config.toString('utf8'),
    tags: [...new Set([...(before?.tags ?? []), ...(image.tag === undefined ? [] : [image.tag])])],
    digests: [...new Set([...(before?.digests ?? []), ...(image.digest === undefined ? [] : [image.digest])])],
    layers: image.layers,
    signatures: withoutDuplicates([...(before?.signatures ?? []), ...(image.signatures ?? [])]),
    namedAtMs: Date.now(),
  };
}

function withoutDuplicates(signatures: readonly Signature[]): readonly Signature[] {
  return [...new Map(signatures.map((each) => [`${each.payload} ${each.signature}`, each])).values()];
}

function sharesName(other: StoredImage, image: NewImage): boolean {
  return (image.digest !== undefined && other.digests.includes(image.digest)) || (image.tag !== undefined && other.tags.includes(image.tag));
}

function withoutNames(other: StoredImage, image: NewImage): StoredImage {
  return { ...other, tags: other.tags.filter((tag) => tag !== image.tag), digests: other.digests.filter((digest) => digest !== image.digest) };
}

/** Returns the changed records of images that have lost a tag to a later record. */
function withoutLostTags(images: readonly StoredImage[]): StoredImage[] {
  const latestFirst = [...images].sort((a, b) => b.namedAtMs - a.namedAtMs);
  const taken = new Set<string>();
  return latestFirst.flatMap((image) => {
    const tags = image.tags.filter((tag) => !taken.has(tag));
    for (const tag of tags) taken.add(tag);
    return tags.length === image.tags.length ? [] : [{ ...image, tags }];
  });
}

function isComplete(layers: LayerStore, image: StoredImage): boolean {
  return image.layers.every((layer) => layers.facts(layer.diffId) !== undefined);
}

function layersBytes(layers: LayerStore, image: StoredImage): number {
  const diffIds = [...new Set(image.layers.map((layer) => layer.diffId))];
  return diffIds.reduce((total, diffId) => total + (layers.facts(diffId)?.sizeBytes ?? 0), 0);
}

function isPinned(image: StoredImage, patterns: readonly string[]): boolean {
  const matches = (name: string, pattern: string): boolean => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern);
  return [...image.tags, ...image.digests].some((name) => patterns.some((pattern) => matches(name, pattern)));
}

/** Returns the estimated disk space of the records. Each is one file. */
function recordBytes(images: Iterable<StoredImage>): number {
  return [...images].reduce((total, image) => total + Math.ceil((image.configText.length + 1024) / 4096) * 4096, 0);
}

/** Replaces a file atomically and durably, without blocking the event loop. */
async function replaceDurably(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `${name}.new`);
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, join(directory, name));
  await syncDirectory(directory);
}
