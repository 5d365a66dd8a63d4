/**
 * Builds the members of an exported archive: an OCI image layout that `docker load` can read too, because tools support one or the other.
 *
 * Deterministic, without side effects: the same images give the same bytes. Sources: OCI image spec, image-layout.md; Docker's manifest.json (facts).
 */
import { createHash } from 'node:crypto';
import { blobPath } from './archive-index.ts';

export type ExportedImage = {
  readonly id: string;
  readonly configText: string;
  /** Full names with tags. */
  readonly tags: readonly string[];
  /** Lowest first. */
  readonly layers: readonly { readonly diffId: string; readonly tarBytes: number }[];
};

export type ArchiveMember =
  | { readonly kind: 'directory'; readonly path: string }
  /** `content`: the bytes, or the layer whose archive is the content. */
  | { readonly kind: 'file'; readonly path: string; readonly sizeBytes: number; readonly content: Buffer | { readonly diffId: string } };

const types = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
  index: 'application/vnd.oci.image.index.v1+json',
} as const;

/** Returns the members of the archive. Documents come first, so that a reader of a stream knows what follows. */
export function archiveMembers(images: readonly ExportedImage[]): readonly ArchiveMember[] {
  const manifests = images.map((image) => ({ image, bytes: toBytes(manifestOf(image)) }));
  const index = {
    schemaVersion: 2,
    mediaType: types.index,
    manifests: manifests.flatMap(({ image, bytes }) => {
      const descriptor = describe(types.manifest, bytes);
      return image.tags.length === 0 ? [descriptor] : image.tags.map((tag) => ({ ...descriptor, annotations: annotationsOf(tag) }));
    }),
  };
  const saved = images.map(({ id, tags, layers }) => ({
    Config: blobPath(id),
    RepoTags: tags,
    Layers: layers.map(({ diffId }) => blobPath(diffId)),
  }));
  const blobs = new Map<string, ArchiveMember>();
  for (const { image, bytes } of manifests) {
    for (const document of [bytes, Buffer.from(image.configText)]) blobs.set(digestOf(document), fileOf(blobPath(digestOf(document)), document));
    for (const { diffId, tarBytes } of image.layers)
      blobs.set(diffId, { kind: 'file', path: blobPath(diffId), sizeBytes: tarBytes, content: { diffId } });
  }
  const algorithms = new Set([...blobs.keys()].map((digest) => digest.slice(0, digest.indexOf(':'))));
  return [
    fileOf('oci-layout', toBytes({ imageLayoutVersion: '1.0.0' })),
    fileOf('index.json', toBytes(index)),
    fileOf('manifest.json', toBytes(saved)),
    directory('blobs'),
    ...[...algorithms].map((algorithm) => directory(`blobs/${algorithm}`)),
    ...blobs.values(),
  ];
}

function manifestOf({ id, configText, layers }: ExportedImage): object {
  return {
    schemaVersion: 2,
    mediaType: types.manifest,
    config: { mediaType: types.config, digest: id, size: Buffer.byteLength(configText) },
    layers: layers.map(({ diffId, tarBytes }) => ({ mediaType: types.layer, digest: diffId, size: tarBytes })),
  };
}

/** The annotations of containerd and Docker: the full name, and the reference name of an OCI layout. */
function annotationsOf(tag: string): Readonly<Record<string, string>> {
  return { 'io.containerd.image.name': tag, 'org.opencontainers.image.ref.name': tag.slice(tag.lastIndexOf(':') + 1) };
}

function describe(mediaType: string, bytes: Buffer): { mediaType: string; digest: string; size: number } {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function toBytes(document: unknown): Buffer {
  return Buffer.from(JSON.stringify(document));
}

function fileOf(path: string, bytes: Buffer): ArchiveMember {
  return { kind: 'file', path, sizeBytes: bytes.length, content: bytes };
}

function directory(path: string): ArchiveMember {
  return { kind: 'directory', path };
}
