/**
 * The content of an archive's members, from the file that they were spooled to: what a pull asks a registry for, an import asks here.
 *
 * Checks digests of documents; those of layers are checked where they are unpacked.
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
    /** @throws {BerthError} FAILED_PRECONDITION when it is not there, or larger. */
    readonly read: (path: string, bytesMax: number) => Promise<Buffer>;
    /** What stands for a layer that no manifest describes: its size, and its digest. */
    readonly describe: (path: string, diffId: string) => Promise<Descriptor>;
  };

const chunkBytes = 256 << 10;
/** Of all manifests and configs, however often one is read: those of a thousand images are some 20 MiB, and are in memory until the last is stored. */
const documentsBytesMax = 64 << 20;

/** @param file that `spool` is the handle of. */
export function openArchiveSource(spool: FileHandle, file: string, members: ArchiveMembers): ArchiveSource {
  /** Of layers that are not among the blobs, by their digests. */
  const places = new Map<string, ArchivedContent>();
  /** Of compressed content, so that it is read once for all images. */
  const digests = new Map<ArchivedContent, string>();
  let documentsBytes = 0;

  const read = async (path: string, bytesMax: number): Promise<Buffer> => {
    const { offset, sizeBytes } = contentOf(members, path);
    if (sizeBytes > bytesMax) throw failedPrecondition(`${path} has ${sizeBytes} bytes, more than the ${bytesMax} that are allowed`);
    documentsBytes += sizeBytes;
    if (documentsBytes > documentsBytesMax)
      throw new BerthError('RESOURCE_EXHAUSTED', `its manifests and configs have more than ${documentsBytesMax} bytes`);
    return await readRange(spool, offset, sizeBytes);
  };

  const readChecked = async (digest: string, bytesMax: number): Promise<Buffer> => {
    const bytes = await read(blobPath(digest), bytesMax);
    const algorithm = digest.slice(0, digest.indexOf(':'));
    const found = `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
    if (found !== digest) throw failedPrecondition(`blob ${digest} has the digest ${found}`);
    return bytes;
  };

  const stream = ({ offset, sizeBytes }: ArchivedContent): Readable =>
    // Of no bytes there is no last one.
    sizeBytes === 0 ? Readable.from([]) : createReadStream(file, { start: offset, end: offset + sizeBytes - 1, highWaterMark: chunkBytes });

  return {
    read,
    fetchManifest: async (digest) => {
      const bytes = await readChecked(digest, manifestBytesMax);
      return { bytes, mediaType: toMediaType(undefined, bytes), digest };
    },
    fetchSmallBlob: async (descriptor, bytesMax) => {
      const bytes = await readChecked(descriptor.digest, bytesMax);
      if (bytes.length !== descriptor.sizeBytes)
        throw failedPrecondition(`blob ${descriptor.digest} has ${bytes.length} bytes, not ${descriptor.sizeBytes}`);
      return bytes;
    },
    openBlob: async ({ digest }) => ({ stream: stream(places.get(digest) ?? contentOf(members, blobPath(digest))), offset: 0 }),
    avoidMirrors: () => false,
    describe: async (path, diffId) => {
      const content = contentOf(members, path);
      const start = await readRange(spool, content.offset, Math.min(4, content.sizeBytes));
      // A tar as it is has its diff id as its digest, and is checked by it.
      const digest = isCompressed(start) ? (digests.get(content) ?? (await digestOf(stream(content)))) : diffId;
      if (isCompressed(start)) digests.set(content, digest);
      places.set(digest, content);
      return { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, sizeBytes: content.sizeBytes };
    },
  };
}

async function readRange(spool: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  const { bytesRead } = await spool.read(bytes, 0, length, offset);
  if (bytesRead !== length) throw failedPrecondition('the spooled archive became shorter');
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
