/**
 * Exports images as one archive. Layers are reassembled bit for bit from their files, so that an import gives the same ids.
 *
 * A lease keeps the layers until the last byte is sent. Writes nothing to disk. The limits of tar-stream do not matter here: all names are ASCII, all
 * owners are root, and all sizes are known in advance (compare src/lib/tar-header.ts).
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { pipeline } from 'node:stream/promises';
import { type Pack, pack } from 'tar-stream';
import { failedPrecondition, failedTo, notFound } from '../../lib/errors.ts';
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
  const totalBytes = members.reduce((total, member) => total + archivedBytes(member), endBytes);
  return { totalBytes, bytes: archive(deps, { members, diffIds, totalBytes }, signal) };
}

type Contents = { readonly members: readonly ArchiveMember[]; readonly diffIds: readonly string[]; readonly totalBytes: number };

async function* archive(deps: ExportDeps, { members, diffIds, totalBytes }: Contents, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
  const ownerId = `export ${randomUUID()}`;
  deps.store.lease(ownerId, diffIds);
  const stop = new AbortController();
  const tar = pack();
  const writing = writeMembers(tar, deps, members, AbortSignal.any([signal, stop.signal])).catch((error: Error) => tar.destroy(error));
  let sentBytes = 0;
  try {
    for await (const bytes of tar as AsyncIterable<Buffer>) {
      sentBytes += bytes.length;
      yield bytes;
    }
    assert.equal(sentBytes, totalBytes);
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw failedTo('export', error);
  } finally {
    // If the reader stopped early, the writer may be waiting for bytes of a layer.
    stop.abort();
    await writing;
    await deps.store.release(ownerId);
  }
}

/** Writes at the pace of the reader: each write waits until the reader has received the previous one. */
async function writeMembers(tar: Pack, deps: ExportDeps, members: readonly ArchiveMember[], signal: AbortSignal): Promise<void> {
  for (const member of members) await pipeline(contentOf(deps, member, signal), tar.entry(headersOf(member)));
  tar.finalize();
}

function contentOf(
  { store: { layers }, unpacker }: ExportDeps,
  member: ArchiveMember,
  signal: AbortSignal,
): Iterable<Buffer> | AsyncIterable<Buffer> {
  if (member.kind === 'directory') return [];
  const { content } = member;
  if (Buffer.isBuffer(content)) return [content];
  const { diffId } = content;
  return unpacker.assemble({ filesDir: layers.filesDir(diffId), tarSplitFile: layers.tarSplitFile(diffId), diffId }, signal);
}

function headersOf(member: ArchiveMember): Parameters<Pack['entry']>[0] {
  const common = { uid: 0, gid: 0, mtime: new Date(0) };
  if (member.kind === 'directory') return { ...common, name: `${member.path}/`, type: 'directory', mode: 0o755 };
  return { ...common, name: member.path, type: 'file', mode: 0o644, size: member.sizeBytes };
}

const blockBytes = 512;
/** Two blocks of zeros. */
const endBytes = 2 * blockBytes;
const nameBytesMax = 100;

/** Returns the bytes of a member in the archive. A path of a SHA-512 digest needs a pax header, which takes two blocks. */
function archivedBytes(member: ArchiveMember): number {
  const headerBlocks = member.path.length > nameBytesMax ? 3 : 1;
  const contentBlocks = member.kind === 'file' ? Math.ceil(member.sizeBytes / blockBytes) : 0;
  return (headerBlocks + contentBlocks) * blockBytes;
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
