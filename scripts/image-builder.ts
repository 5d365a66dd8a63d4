/**
 * Builds small container images in memory: layers, configs, manifests and indexes. The output is deterministic.
 *
 * Used for the sample image of `npm start` and for tests. Never uses the network and writes no files.
 */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';

export const dockerTypes = {
  manifest: 'application/vnd.docker.distribution.manifest.v2+json',
  index: 'application/vnd.docker.distribution.manifest.list.v2+json',
  config: 'application/vnd.docker.container.image.v1+json',
  layer: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
} as const;

export const ociTypes = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar+gzip',
} as const;

export type MediaTypes = typeof dockerTypes | typeof ociTypes;

/** An entry of a layer. Missing parent directories are created, owned by root with mode 755. */
export type Entry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | { readonly kind: 'file'; readonly path: string; readonly data: Buffer | string; readonly mode?: number }
  | { readonly kind: 'hardlink' | 'symlink'; readonly path: string; readonly target: string }
  | { readonly kind: 'fifo'; readonly path: string }
  | { readonly kind: 'device'; readonly path: string; readonly major: number; readonly minor: number };

export type Layer = { readonly blob: Buffer; readonly diffId: string };

/** The `config` object of an image config. */
export type RunConfig = {
  readonly Env?: readonly string[];
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly User?: string;
  readonly WorkingDir?: string;
  readonly StopSignal?: string;
  readonly ExposedPorts?: Readonly<Record<string, object>>;
  readonly Labels?: Readonly<Record<string, string>>;
  readonly Volumes?: Readonly<Record<string, object>>;
};

/** A manifest or an index, with everything it references. */
export type Image = {
  readonly mediaType: string;
  readonly digest: string;
  readonly data: Buffer;
  /** Layers and config, by digest. */
  readonly blobs: ReadonlyMap<string, Buffer>;
  /** The manifests of an index. */
  readonly manifests: readonly Image[];
};

/** Returns the digest of the bytes as `sha256:<hex>`. */
export function digestOf(data: Buffer): string {
  return `sha256:${createHash('sha256').update(data).digest('hex')}`;
}

/** Builds a layer. @returns a gzip-compressed tar whose bytes depend only on the entries: all times are 0 and the owner is root. */
export async function buildLayer(entries: readonly Entry[]): Promise<Layer> {
  const tar = pack();
  const directories = new Set<string>();
  for (const entry of entries) addEntry(tar, directories, entry);
  tar.finalize();
  const parts: Buffer[] = [];
  for await (const part of tar) parts.push(part as Buffer);
  const raw = Buffer.concat(parts);
  return { blob: gzipSync(raw, { level: 6 }), diffId: digestOf(raw) };
}

function addEntry(tar: ReturnType<typeof pack>, directories: Set<string>, entry: Entry): void {
  addParents(tar, directories, entry.path);
  const common = { name: entry.path, mtime: new Date(0), uid: 0, gid: 0 };
  if (entry.kind === 'directory') {
    directories.add(entry.path);
    tar.entry({ ...common, type: 'directory', mode: entry.mode ?? 0o755 });
  } else if (entry.kind === 'file') {
    tar.entry({ ...common, type: 'file', mode: entry.mode ?? 0o644 }, entry.data);
  } else if (entry.kind === 'fifo') {
    tar.entry({ ...common, type: 'fifo', mode: 0o644 });
  } else if (entry.kind === 'device') {
    tar.entry({ ...common, type: 'character-device', mode: 0o644, devmajor: entry.major, devminor: entry.minor });
  } else {
    tar.entry({ ...common, type: entry.kind === 'symlink' ? 'symlink' : 'link', mode: 0o755, linkname: entry.target });
  }
}

function addParents(tar: ReturnType<typeof pack>, directories: Set<string>, path: string): void {
  const names = path.split('/').slice(0, -1);
  for (const [index] of names.entries()) {
    const parent = names.slice(0, index + 1).join('/');
    if (!directories.has(parent)) addEntry(tar, directories, { kind: 'directory', path: parent });
  }
}

/** Builds an image for Linux on one architecture. */
export function buildImage(layers: readonly Layer[], config: RunConfig, types: MediaTypes = dockerTypes, architecture = 'amd64'): Image {
  const created = '1970-01-01T00:00:00Z';
  const rootfs = { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) };
  const history = layers.map(() => ({ created, created_by: 'image-builder' }));
  const configBlob = Buffer.from(JSON.stringify({ architecture, os: 'linux', created, config, rootfs, history }));
  const blobs = new Map([[digestOf(configBlob), configBlob], ...layers.map((layer): [string, Buffer] => [digestOf(layer.blob), layer.blob])]);
  const document = {
    schemaVersion: 2,
    mediaType: types.manifest,
    config: { mediaType: types.config, digest: digestOf(configBlob), size: configBlob.length },
    layers: layers.map((layer) => ({ mediaType: types.layer, digest: digestOf(layer.blob), size: layer.blob.length })),
  };
  return withDigest(types.manifest, document, blobs, []);
}

/** Builds an index (or Docker manifest list). @param images each with its architecture. */
export function buildIndex(images: readonly (readonly [Image, string])[], types: MediaTypes = ociTypes): Image {
  const manifests = images.map(([image, architecture]) => ({
    mediaType: image.mediaType,
    digest: image.digest,
    size: image.data.length,
    platform: { architecture, os: 'linux' },
  }));
  return withDigest(
    types.index,
    { schemaVersion: 2, mediaType: types.index, manifests },
    new Map(),
    images.map(([image]) => image),
  );
}

function withDigest(mediaType: string, document: object, blobs: ReadonlyMap<string, Buffer>, manifests: readonly Image[]): Image {
  const data = Buffer.from(JSON.stringify(document));
  return { mediaType, digest: digestOf(data), data, blobs, manifests };
}
