/**
 * Exports images as one archive. Layers are reassembled bit for bit from their files, so that an import gives the same ids.
 *
 * A lease keeps the layers until the last byte is sent. Writes nothing.
 */
import { randomUUID } from 'node:crypto';
import { failedPrecondition, failedTo, notFound } from '../../lib/errors.ts';
import { tarEnd, tarPadding } from '../../lib/tar-header.ts';
import { findReference, formatTag } from '../document/reference.ts';
import type { ImageRecord } from '../store/image-record.ts';
import type { ImageStore } from '../store/store.ts';
import type { Unpacker } from '../unpack/unpack.ts';
import { type ArchiveMember, archiveMembers, type ExportedImage } from './archive-documents.ts';

export type ExportDeps = { readonly store: ImageStore; readonly unpacker: Pick<Unpacker, 'assemble'> };

export type ExportedArchive = {
  readonly totalBytes: number;
  /** Can be read once; the reader may stop early. Fails with FAILED_PRECONDITION when a layer is corrupt: the archive is then unusable. */
  readonly bytes: AsyncGenerator<Buffer, undefined>;
};

/**
 * Exports the images as one archive.
 *
 * @param references names, digests or ids. An image referenced by a tag gets only that tag in the archive; otherwise it gets all its tags.
 * @throws {BerthError} NOT_FOUND for an unknown image; FAILED_PRECONDITION for a layer that cannot be reassembled.
 */
export function exportImages(deps: ExportDeps, references: readonly string[], signal: AbortSignal): ExportedArchive {
  const images = imagesOf(deps.store, references);
  const members = archiveMembers(images);
  const diffIds = images.flatMap(({ layers }) => layers.map(({ diffId }) => diffId));
  const totalBytes = members.reduce(
    (total, { header, sizeBytes }) => total + header.length + sizeBytes + tarPadding(sizeBytes).length,
    tarEnd.length,
  );
  return { totalBytes, bytes: archive(deps, members, diffIds, signal) };
}

async function* archive(
  { store, unpacker }: ExportDeps,
  members: readonly ArchiveMember[],
  diffIds: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<Buffer, undefined> {
  const ownerId = `export ${randomUUID()}`;
  store.lease(ownerId, diffIds);
  try {
    for (const { header, sizeBytes, content } of members) {
      yield header;
      if (Buffer.isBuffer(content)) yield content;
      else yield* layer({ store, unpacker }, content.diffId, signal);
      yield tarPadding(sizeBytes);
    }
    yield tarEnd;
  } finally {
    await store.release(ownerId);
  }
}

async function* layer({ store: { layers }, unpacker }: ExportDeps, diffId: string, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
  try {
    yield* unpacker.assemble({ filesDir: layers.filesDir(diffId), tarSplitFile: layers.tarSplitFile(diffId), diffId }, signal);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw failedTo('export', error);
  }
}

function imagesOf(store: ImageStore, references: readonly string[]): readonly ExportedImage[] {
  const tagsOf = new Map<ImageRecord, Set<string>>();
  for (const reference of references) {
    const image = store.find(reference);
    if (image === undefined) throw notFound(`image ${reference} is not on this node`);
    const parsed = findReference(reference);
    const tag = parsed === undefined ? undefined : formatTag(parsed);
    const tags = tag !== undefined && image.repoTags.includes(tag) ? [tag] : image.repoTags;
    tagsOf.set(image, new Set([...(tagsOf.get(image) ?? []), ...tags]));
  }
  return [...tagsOf].map(([image, tags]) => ({
    id: image.id,
    configText: image.configText,
    tags: [...tags],
    layers: image.diffIds.map((diffId) => ({ diffId, tarBytes: tarBytesOf(store, image, diffId) })),
  }));
}

function tarBytesOf({ layers }: ImageStore, image: ImageRecord, diffId: string): number {
  const facts = layers.facts(diffId);
  if (facts === undefined) throw failedPrecondition(`export image ${image.id}: missing layer ${diffId}`);
  if (facts.tarBytes !== undefined) return facts.tarBytes;
  throw failedPrecondition(
    `export image ${image.id}: layer ${diffId} was unpacked by an earlier version, which did not store its tar metadata; remove the image and pull it again`,
  );
}
