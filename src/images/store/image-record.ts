/**
 * What is kept of an image: its config word for word, its names and its layers; and what is shown of it.
 *
 * Pure. The config's text is kept because the image's id is its digest: a record that was damaged on disk is found by that.
 */
import { createHash } from 'node:crypto';
import type { ImageConfig } from '../../engine/state/spec.ts';
import { failedPrecondition } from '../../lib/errors.ts';
import { type ImageConfigBlob, parseImageConfig } from '../document/manifest.ts';
import { isDigest, isImageId } from '../document/reference.ts';
import { parseJsonObject, toArray, toObject, toOptionalTexts, toSizeBytes, toText } from '../document/untrusted-json.ts';
import type { Signature } from '../signature/signature.ts';

export const imageRecordVersion = 1;

/** A layer as the manifest had it, and the digest of the tar within. */
export type ImageLayer = { readonly diffId: string; readonly digest: string; readonly compressedBytes: number };

/** As on disk, `<root>/images/<hex of the id>.json`. Lists are without duplicates. */
export type StoredImage = {
  readonly version: typeof imageRecordVersion;
  /** `sha256:` and the digest of `configText`. */
  readonly id: string;
  readonly configText: string;
  /** Full names, `docker.io/library/busybox:1.36`. */
  readonly tags: readonly string[];
  /** Full names, `docker.io/library/busybox@sha256:…`, of manifests or indexes. */
  readonly digests: readonly string[];
  /** Lowest first. */
  readonly layers: readonly ImageLayer[];
  /** Of its manifests, by which a policy accepted it. */
  readonly signatures: readonly Signature[];
  /** Milliseconds since the epoch of the last change of names: of two records with one tag the later one has it. */
  readonly namedAtMs: number;
};

/** An image as the rest of berth sees it. */
export type ImageRecord = {
  /** `sha256:<64 hex>`, the one id in every answer. */
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  /** On disk, unpacked, config included; layers that other images share are counted in each. Never 0. */
  readonly sizeBytes: number;
  /** From the first part of the config's User, when that is a number; then `username` is absent. */
  readonly uid?: number;
  readonly username?: string;
  /** Not to be removed by garbage collection. */
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

/** @throws {BerthError} FAILED_PRECONDITION when the bytes are not a whole record of this version. */
export function parseStoredImage(bytes: Buffer): StoredImage {
  const document = parseJsonObject(bytes, 'image record');
  if (document.version !== imageRecordVersion)
    throw failedPrecondition(`image record: has version ${String(document.version)}; this berth reads ${imageRecordVersion}`);
  const configText = toText(document.configText, 'image record configText');
  const id = toText(document.id, 'image record id');
  if (id !== idOfConfig(Buffer.from(configText))) throw failedPrecondition('image record: its config does not have the digest that is its id');
  return {
    version: imageRecordVersion,
    id,
    configText,
    tags: toOptionalTexts(document.tags, 'image record tags', namesMax),
    digests: toOptionalTexts(document.digests, 'image record digests', namesMax),
    layers: toArray(document.layers, 'image record layers', 500).map(parseLayer),
    // Records of before there was a policy have none.
    signatures: toArray(document.signatures ?? [], 'image record signatures', namesMax).map(parseSignature),
    namedAtMs: toSizeBytes(document.namedAtMs, 'image record namedAtMs'),
  };
}

const namesMax = 100_000;

function parseLayer(value: unknown): ImageLayer {
  const layer = toObject(value, 'image record layer');
  const diffId = toText(layer.diffId, 'image record layer diffId');
  if (!isDigest(diffId)) throw failedPrecondition('image record: a diff id is no digest');
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
 * The diff ids that a record names, as far as they can be read at all: of a record that this berth cannot read (a newer one's,
 * or a damaged one) the layers must not be lost.
 */
export function salvageDiffIds(bytes: Buffer): readonly string[] {
  const found = bytes.toString('latin1').matchAll(/"diffId":\s*"(sha(?:256|512):[0-9a-f]+)"/g);
  return [...found].map((match) => match[1] ?? '').filter(isDigest);
}

export function idOfConfig(config: Buffer): string {
  return `sha256:${createHash('sha256').update(config).digest('hex')}`;
}

/** @param id of an image. @returns the name of its record's file. */
export function recordFileName(id: string): string {
  if (!isImageId(id)) throw failedPrecondition(`image id ${JSON.stringify(id)} is no digest`);
  return `${id.replace('sha256:', '')}.json`;
}

/** @param layersBytes what its layers take on disk. */
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

/** What the kubelet checks runAsNonRoot against: a number, or else a name, or nothing. */
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

/** What the engine needs of the config. */
export function toEngineConfig(image: ImageRecord): ImageConfig {
  const { entrypoint, cmd, env, workingDir, user, stopSignal, volumes } = image.config;
  return { id: image.id, entrypoint, cmd, env, workingDir, user, stopSignal, volumes };
}
