/**
 * The images of the node: records on disk, `<root>/images/<hex>.json`, with memory as their view, and which layers they keep.
 *
 * Never talks to a registry. A record is replaced as a whole and on disk before it is shown; only then do older ones lose a tag to it.
 */
import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageRoot } from '../../engine/state/spec.ts';
import { reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { createKeyedQueue } from '../../lib/queue.ts';
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
  /** Holds `images` and `layers`. */
  readonly root: string;
  readonly unpacker: Pick<Unpacker, 'remove' | 'sync'>;
  readonly log?: Log;
  /** Full names with tag of images that garbage collection must leave; a `*` at the end stands for any rest. */
  readonly pinnedImages?: readonly string[];
  /** Changes the kernel's own, for tests. */
  readonly bootId?: string;
  /** How long whole layers of pulls that failed are kept for the next attempt; by default a quarter of an hour. */
  readonly keepUnfinishedMs?: number;
};

/** The kubelet's longest pause between two attempts is five minutes. */
const keepUnfinishedMsDefault = 15 * 60_000;

/** An image that was pulled, with its layers in place and leased by the caller. */
export type NewImage = {
  readonly config: Buffer;
  readonly layers: readonly ImageLayer[];
  /** As formatTag() and formatDigest() have them. */
  readonly tag: string | undefined;
  /** Undefined for images that came from an archive which has none. */
  readonly digest: string | undefined;
  /** That made a policy accept it. */
  readonly signatures?: readonly Signature[];
};

export type ImageStore = {
  /** One record per image. @param reference restricts to the image that find() gives. */
  readonly list: (reference?: string) => readonly ImageRecord[];
  /** By id with or without `sha256:`, an unambiguous beginning of one (7 digits or more), tag, digest, or both. Undefined for anything else. */
  readonly find: (reference: string) => ImageRecord | undefined;
  /** Adds names to the image, makes it if need be. A tag that another image had is taken from it. */
  readonly put: (image: NewImage) => Promise<ImageRecord>;
  /** Removes the image with all its names; its layers when nothing else has them. Succeeds when there is none. */
  readonly remove: (reference: string) => Promise<void>;
  /** Of everything below the root, from what was counted while unpacking. */
  readonly fsInfo: () => Promise<{ readonly mountpoint: string; readonly usedBytes: number; readonly inodesUsed: number }>;
  /** Keeps layers, also of an image that is removed, until release() of the same owner. In memory: at start, to be set before collect(). */
  readonly lease: (ownerId: string, diffIds: readonly string[]) => void;
  /** Removes the layers that nothing else has. Idempotent. */
  readonly release: (ownerId: string) => Promise<void>;
  /** As release(), but what is there of these layers is kept a while for the next attempt. */
  readonly releaseUnfinished: (ownerId: string, diffIds: readonly string[]) => Promise<void>;
  /** Removes what an earlier daemon left half done; whole layers that no image and no lease has are kept a while, for they may be of a pull that it did not end. */
  readonly collect: () => Promise<void>;
  readonly rootOf: (image: ImageRecord) => ImageRoot;
  readonly layers: LayerStore;
};

/** @throws when the directories cannot be made or read; a record that cannot be read is left where it is, and its layers with it. */
export async function createImageStore(deps: ImageStoreDeps): Promise<ImageStore> {
  const directory = join(deps.root, 'images');
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const layers = await openLayerStore(deps);
  const stored = new Map<string, StoredImage>();
  const views = new Map<string, ImageRecord>();
  /** Layers of records that cannot be read. */
  const held = new Set<string>();
  const writes = createKeyedQueue();
  const inTurn = <T>(task: () => Promise<T>): Promise<T> => writes.run('images', task);

  const show = (image: StoredImage): ImageRecord => {
    const view = toImageRecord(image, bytesOf(layers, image), isPinned(image, deps.pinnedImages ?? []));
    stored.set(image.id, image);
    views.set(image.id, view);
    return view;
  };
  const write = async (image: StoredImage): Promise<ImageRecord> => {
    await replaceDurably(directory, recordFileName(image.id), JSON.stringify(image));
    return show(image);
  };
  const find = (reference: string): ImageRecord | undefined => findImage(views, reference);
  const usedLayers = () => new Set([...held, ...[...stored.values()].flatMap((image) => image.layers.map((layer) => layer.diffId))]);
  const removeUnused = async (): Promise<void> => {
    const used = usedLayers();
    await layers.removeUnused((diffId) => used.has(diffId));
  };

  const keepUnfinishedMs = deps.keepUnfinishedMs ?? keepUnfinishedMsDefault;
  const release = async (ownerId: string): Promise<void> => {
    layers.release(ownerId);
    await inTurn(removeUnused);
  };
  const unfinished = (diffId: string): string => `unfinished ${diffId}`;
  const keepAWhile = (diffIds: readonly string[]): void => {
    if (keepUnfinishedMs === 0 || diffIds.length === 0) return;
    for (const diffId of diffIds) layers.lease(unfinished(diffId), [diffId]);
    const end = (): void => {
      for (const diffId of diffIds) layers.release(unfinished(diffId));
      inTurn(removeUnused).catch((error: unknown) => deps.log?.warn({ reason: reasonOf(error) }, 'removing layers of unfinished pulls failed'));
    };
    setTimeout(end, keepUnfinishedMs).unref();
  };

  const put = (image: NewImage): Promise<ImageRecord> =>
    inTurn(async () => {
      const named = withNames(stored.get(idOfConfig(image.config)), image);
      const view = await write(named);
      // Last: after a crash in between two have the tag, and the later one keeps it.
      for (const loser of [...stored.values()].filter((other) => other.id !== named.id && sharesName(other, image))) {
        await write(withoutNames(loser, image));
      }
      // From here on the image keeps them, and its removal frees them.
      for (const { diffId } of image.layers) layers.release(unfinished(diffId));
      // Nobody waits for it, and the record's own way to the disk does not have to wait behind it.
      void layers.synced();
      return view;
    });

  const remove = (reference: string): Promise<void> =>
    inTurn(async () => {
      const image = find(reference);
      if (image === undefined) return;
      await rm(join(directory, recordFileName(image.id)), { force: true });
      stored.delete(image.id);
      views.delete(image.id);
      await syncDirectory(directory);
      await removeUnused();
    });

  for (const name of await readdir(directory)) {
    const bytes = await readFile(join(directory, name));
    if (!name.endsWith('.json')) continue;
    try {
      const image = parseStoredImage(bytes);
      if (isComplete(layers, image)) show(image);
      else {
        // Of no use to anybody; what is left of it is collected, and the next pull fetches it anew.
        deps.log?.warn({ image: image.id }, 'an image whose layers are not all there is removed');
        await rm(join(directory, name), { force: true });
      }
    } catch (error) {
      for (const diffId of salvageDiffIds(bytes)) held.add(diffId);
      deps.log?.warn({ file: name, reason: reasonOf(error) }, 'an image that cannot be read is left out; its layers are kept');
    }
  }
  for (const image of settledTags([...stored.values()])) show(image);

  return {
    list: (reference) => (reference === undefined ? [...views.values()] : [find(reference)].filter((image) => image !== undefined)),
    find,
    put,
    remove,
    fsInfo: async () => fsInfoOf(deps.root, layers, stored),
    lease: (ownerId, diffIds) => layers.lease(ownerId, diffIds),
    release,
    releaseUnfinished: async (ownerId, diffIds) => {
      keepAWhile(diffIds);
      await release(ownerId);
    },
    collect: async () => {
      await inTurn(async () => {
        // A record that was being written when an earlier daemon died.
        for (const name of await readdir(directory)) if (!name.endsWith('.json')) await rm(join(directory, name), { force: true });
        const used = usedLayers();
        keepAWhile(layers.unleased().filter((diffId) => !used.has(diffId)));
        await removeUnused();
      });
      await layers.removeLeftovers();
    },
    rootOf: (image) => rootOf(layers, image),
    layers,
  };
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

/** The one tag or digest that a name stands for; undefined for what is no name. */
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
    signatures: withoutTwins([...(before?.signatures ?? []), ...(image.signatures ?? [])]),
    namedAtMs: Date.now(),
  };
}

function withoutTwins(signatures: readonly Signature[]): readonly Signature[] {
  return [...new Map(signatures.map((each) => [`${each.payload} ${each.signature}`, each])).values()];
}

function sharesName(other: StoredImage, image: NewImage): boolean {
  return (image.digest !== undefined && other.digests.includes(image.digest)) || (image.tag !== undefined && other.tags.includes(image.tag));
}

function withoutNames(other: StoredImage, image: NewImage): StoredImage {
  return { ...other, tags: other.tags.filter((tag) => tag !== image.tag), digests: other.digests.filter((digest) => digest !== image.digest) };
}

/** @returns the records that lose a tag to a later one. */
function settledTags(images: readonly StoredImage[]): StoredImage[] {
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

function bytesOf(layers: LayerStore, image: StoredImage): number {
  const diffIds = [...new Set(image.layers.map((layer) => layer.diffId))];
  return diffIds.reduce((total, diffId) => total + (layers.facts(diffId)?.sizeBytes ?? 0), 0);
}

function isPinned(image: StoredImage, patterns: readonly string[]): boolean {
  const matches = (name: string, pattern: string): boolean => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern);
  return [...image.tags, ...image.digests].some((name) => patterns.some((pattern) => matches(name, pattern)));
}

function fsInfoOf(root: string, layers: LayerStore, stored: ReadonlyMap<string, StoredImage>) {
  const { sizeBytes, inodes } = layers.usage();
  // Each record is one file of a few blocks.
  const recordsBytes = [...stored.values()].reduce((total, image) => total + Math.ceil((image.configText.length + 1024) / 4096) * 4096, 0);
  return { mountpoint: root, usedBytes: sizeBytes + recordsBytes, inodesUsed: inodes + stored.size };
}

function rootOf(layers: LayerStore, image: ImageRecord): ImageRoot {
  // Overlayfs refuses a layer that is there twice; of two the lower one adds nothing.
  const topmostFirst = [...new Set([...image.diffIds].reverse())];
  const opaque = topmostFirst.findIndex((diffId) => layers.facts(diffId)?.isRootOpaque === true);
  const visible = opaque < 0 ? topmostFirst : topmostFirst.slice(0, opaque + 1);
  return { config: toEngineConfig(image), layerDirs: visible.map((diffId) => layers.filesDir(diffId)) };
}

/** As sys/files.ts does it, but without holding up the event loop while the disk works. */
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
