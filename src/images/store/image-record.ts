/**
 * The stored record of an image: its config unchanged, its names and its layers; and the view of it for the rest of berth.
 *
 * The text of the config is stored because its digest is the id of the image: this detects a record that is corrupt on disk.
 */
import { createHash } from 'node:crypto';
import type { ImageConfig } from '../../engine/state/spec.ts';
import { failedPrecondition } from '../../lib/errors.ts';
import { type ImageConfigBlob, parseImageConfig } from '../document/manifest.ts';
import { isDigest, isImageId } from '../document/reference.ts';
import { parseJsonObject, toArray, toObject, toOptionalTexts, toSizeBytes, toText } from '../document/untrusted-json.ts';
import type { Signature } from '../signature/signature.ts';

export const imageRecordVersion = 1;

/** A layer as described by the manifest, with the digest of its uncompressed tar. */
export type ImageLayer = { readonly diffId: string; readonly digest: string; readonly compressedBytes: number };

/** The record on disk, `<root>/images/<hex of the id>.json`. Lists have no duplicates. */
export type StoredImage = {
  readonly version: typeof imageRecordVersion;
  /** The digest of `configText`: `sha256:<hex>`. */
  readonly id: string;
  readonly configText: string;
  /** Full names, `docker.io/library/busybox:1.36`. */
  readonly tags: readonly string[];
  /** Full names, `docker.io/library/busybox@sha256:…`, of manifests or indexes. */
  readonly digests: readonly string[];
  /** Lowest first. */
  readonly layers: readonly ImageLayer[];
  /** Signatures of its manifests, by which the policy accepted it. */
  readonly signatures: readonly Signature[];
  /** Time of the last change of names, in milliseconds since the epoch: of two records with the same tag, the later one owns it. */
  readonly namedAtMs: number;
};

/** An image as the rest of berth sees it. */
export type ImageRecord = {
  /** `sha256:<64 hex>`, the id in all responses. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  /** Size of the unpacked layers on disk and of the config. Shared layers count in each image. Never 0. */
  readonly sizeBytes: number;
  /** The first part of the config's User if it is a number; then `username` is absent. */
  readonly uid?: number;
  readonly username?: string;
  /** Excluded from garbage collection. */
  readonly isPinned: boolean;
  readonly config: ImageConfigBlob;
  /** The config as the registry sent it. */
  readonly configText: string;
  /** Source: OCI image spec, config.md, "Layer ChainID". */
  readonly chainId: string;
  /** Lowest first. */
  readonly diffIds: readonly string[];
  readonly layers: readonly ImageLayer[];
  /** As in StoredImage. */
  readonly signatures: readonly Signature[];
};

/** Parses a record. @throws {BerthError} FAILED_PRECONDITION when it is not a complete record of this version. */
export function parseStoredImage(bytes: Buffer): StoredImage {
  const document = parseJsonObject(bytes, 'image record');
  if (document.version !== imageRecordVersion)
    throw failedPrecondition(`image record: unsupported version ${String(document.version)}; supported: ${imageRecordVersion}`);
  const configText = toText(document.configText, 'image record configText');
  const id = toText(document.id, 'image record id');
  if (id !== idOfConfig(Buffer.from(configText))) throw failedPrecondition('image record: digest of the config does not match the id');
  return {
    version: imageRecordVersion,
    id,
    configText,
    tags: toOptionalTexts(document.tags, 'image record tags', namesMax),
    digests: toOptionalTexts(document.digests, 'image record digests', namesMax),
    layers: toArray(document.layers, 'image record layers', 500).map(parseLayer),
    // Records written before signature policies were supported have none.
    signatures: toArray(document.signatures ?? [], 'image record signatures', namesMax).map(parseSignature),
    namedAtMs: toSizeBytes(document.namedAtMs, 'image record namedAtMs'),
  };
}

const namesMax = 100_000;

function parseLayer(value: unknown): ImageLayer {
  const layer = toObject(value, 'image record layer');
  const diffId = toText(layer.diffId, 'image record layer diffId');
  if (!isDigest(diffId)) throw failedPrecondition('image record: invalid diff id');
  return {
    diffId,
    digest: toText(layer.digest, 'image record layer digest'),
    compressedBytes: toSizeBytes(layer.compressedBytes, 'image record layer compressedBytes'),
  };
}

function parseSignature(value: unknown): Signature {
  const { payload, signature } = toObject(value, 'image record signature');
  return { payload: toText(payload, 'image record signature payload'), signature: toText(signature, 'image record signature') };
}

/**
 * Returns the diff ids that can be found in a record which this version cannot read (a newer or a corrupt one), so that its layers are not
 * removed.
 */
export function salvageDiffIds(bytes: Buffer): readonly string[] {
  const found = bytes.toString('latin1').matchAll(/"diffId":\s*"(sha(?:256|512):[0-9a-f]+)"/g);
  return [...found].map((match) => match[1] ?? '').filter(isDigest);
}

export function idOfConfig(config: Buffer): string {
  return `sha256:${createHash('sha256').update(config).digest('hex')}`;
}

/** Returns the file name of an image's record. @throws {BerthError} FAILED_PRECONDITION for an invalid id. */
export function recordFileName(id: string): string {
  if (!isImageId(id)) throw failedPrecondition(`invalid image id ${JSON.stringify(id)}`);
  return `${id.replace('sha256:', '')}.json`;
}

/** Returns the view of a stored image. @param layersBytes size of its layers on disk. */
export function toImageRecord(stored: StoredImage, layersBytes: number, isPinned: boolean): ImageRecord {
  const config = parseImageConfig(Buffer.from(stored.configText));
  return {
    id: stored.id,
    repoTags: stored.tags,
    repoDigests: stored.digests,
    sizeBytes: layersBytes + Buffer.byteLength(stored.configText),
    ...userOf(config.user),
    isPinned,
    config,
    configText: stored.configText,
    chainId: chainIdOf(config.diffIds),
    diffIds: config.diffIds,
    layers: stored.layers,
    signatures: stored.signatures,
  };
}

/** The kubelet checks runAsNonRoot against these: a number, a name, or nothing. */
function userOf(user: string): { uid?: number; username?: string } {
  const name = user.split(':', 1)[0] ?? '';
  if (name === '') return {};
  const uid = /^[0-9]{1,10}$/.test(name) ? Number(name) : Number.NaN;
  return uid <= 0xffffffff ? { uid } : { username: name };
}

function chainIdOf(diffIds: readonly string[]): string {
  const [lowest = '', ...rest] = diffIds;
  return rest.reduce((chain, diffId) => `sha256:${createHash('sha256').update(`${chain} ${diffId}`).digest('hex')}`, lowest);
}

/** Returns the parts of the config that the engine uses. */
export function toEngineConfig(image: ImageRecord): ImageConfig {
  const { entrypoint, cmd, env, workingDir, user, stopSignal, volumes } = image.config;
  return { id: image.id, entrypoint, cmd, env, workingDir, user, stopSignal, volumes };
}
