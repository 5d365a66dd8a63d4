/**
 * Reads the members of a spooled image archive: the source of an import, in place of a registry.
 *
 * Checks the digests of documents. The digests of layers are checked when they are unpacked.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { type Descriptor, manifestBytesMax, toMediaType } from '../document/manifest.ts';
import type { DocumentSource } from '../pull/obtain-image.ts';
import type { LayerSource } from '../pull/shared-layers.ts';
import { type ArchivedContent, type ArchiveMembers, blobPath, contentOf } from './archive-index.ts';

export type ArchiveSource = DocumentSource &
  LayerSource & {
    /** @throws {BerthError} FAILED_PRECONDITION when the member is missing or larger than `bytesMax`. */
    readonly read: (path: string, bytesMax: number) => Promise<Buffer>;
    /** Returns a descriptor, with size and digest, of a layer that no manifest describes. */
    readonly describe: (path: string, diffId: string) => Promise<Descriptor>;
  };

const chunkBytes = 256 << 10;
/**
 * Limit of all reads of manifests and configs together. Those of a thousand images have some 20 MiB and stay in memory until the last image
 * is stored.
 */
const documentsBytesMax = 64 << 20;

/** @param spool handle of `file`. */
export function openArchiveSource(spool: FileHandle, file: string, members: ArchiveMembers): ArchiveSource {
  /** By digest: layers that are not stored as blobs. */
  const describedLayers = new Map<string, ArchivedContent>();
  /** Digests of compressed layers, cached so that each is read once for all images. */
  const digests = new Map<ArchivedContent, string>();
  let documentsBytes = 0;

  const read = async (path: string, bytesMax: number): Promise<Buffer> => {
    const { offset, sizeBytes } = contentOf(members, path);
    if (sizeBytes > bytesMax) throw failedPrecondition(`${path}: size of ${sizeBytes} bytes exceeds the limit of ${bytesMax}`);
    documentsBytes += sizeBytes;
    if (documentsBytes > documentsBytesMax) throw new BerthError('RESOURCE_EXHAUSTED', `manifests and configs exceed ${documentsBytesMax} bytes`);
    return await readRange(spool, offset, sizeBytes);
  };

  const readChecked = async (digest: string, bytesMax: number): Promise<Buffer> => {
    const bytes = await read(blobPath(digest), bytesMax);
    const algorithm = digest.slice(0, digest.indexOf(':'));
    const found = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
    if (found !== digest) throw failedPrecondition(`blob ${digest}: digest mismatch: found ${found}`);
    return bytes;
  };

  const stream = ({ offset, sizeBytes }: ArchivedContent): Readable =>
    // An empty range has no last byte.
    sizeBytes === 0 ? Readable.from([]) : createReadStream(file, { start: offset, end: offset + sizeBytes - 1, highWaterMark: chunkBytes });

  return {
    read,
    fetchManifest: async (digest) => {
      const bytes = await readChecked(digest, manifestBytesMax);
      return { bytes, mediaType: toMediaType(undefined, bytes), digest };
    },
    fetchSmallBlob: async (descriptor, bytesMax) => {
      const bytes = await readChecked(descriptor.digest, bytesMax);
      if (descriptor.sizeBytes !== 0 && bytes.length !== descriptor.sizeBytes)
        throw failedPrecondition(`blob ${descriptor.digest}: ${bytes.length} bytes instead of ${descriptor.sizeBytes}`);
      return bytes;
    },
    openBlob: async ({ digest }) => ({ stream: stream(describedLayers.get(digest) ?? contentOf(members, blobPath(digest))), offset: 0 }),
    avoidMirrors: () => false,
    describe: async (path, diffId) => {
      const content = contentOf(members, path);
      const start = await readRange(spool, content.offset, Math.min(4, content.sizeBytes));
      // The digest of an uncompressed layer is its diff id.
      const digest = isCompressed(start) ? (digests.get(content) ?? (await digestOf(stream(content)))) : diffId;
      if (isCompressed(start)) digests.set(content, digest);
      describedLayers.set(digest, content);
      return { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, sizeBytes: content.sizeBytes };
    },
  };
}

async function readRange(spool: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await spool.read(bytes, 0, length, offset);
  if (bytesRead !== length) throw failedPrecondition('the spooled archive is truncated');
  return bytes;
}

function isCompressed(start: Buffer): boolean {
  return (start[0] === 0x1f && start[1] === 0x8b) || (start.length === 4 && start.readUInt32LE(0) === 0xfd2fb528);
}

async function digestOf(stream: Readable): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of stream as AsyncIterable<Buffer>) hash.update(chunk);
  return `sha256:${hash.digest('hex')}`;
}
