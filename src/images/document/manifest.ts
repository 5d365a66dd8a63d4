/**
 * Parses and validates indexes, manifests and image configs, OCI and Docker.
 *
 * The input is untrusted. Fields are found and absent values are read as Go does, because Go programs write and read these documents. Pure:
 * never fetches, and returns only fields that it has checked.
 */
import { BerthError, failedPrecondition, notFound } from '../../lib/errors.ts';
import { acceptedVariants, normalized, type Platform, platformText } from './platform.ts';
import { isDigest } from './reference.ts';
import {
  parseFields,
  quoted,
  toFields,
  toList,
  toOptionalEntries,
  toOptionalSizeBytes,
  toOptionalText,
  toOptionalTextMap,
  toOptionalTexts,
  toText,
} from './untrusted-json.ts';

export type Descriptor = {
  readonly mediaType: string;
  /** `sha256:…` or `sha512:…`, well-formed. */
  readonly digest: string;
  /** 0 when the document does not contain it. */
  readonly sizeBytes: number;
  /** Only in an index. */
  readonly platform?: Platform;
};

export type ParsedIndex = {
  readonly kind: 'index';
  readonly manifests: readonly Descriptor[];
  /** The reasons why other entries cannot be used. */
  readonly refusals: readonly string[];
};

export type ParsedManifest = ParsedIndex | { readonly kind: 'manifest'; readonly config: Descriptor; readonly layers: readonly Descriptor[] };

/** The container defaults of an image. '' and empty lists mean that the image does not set a value. */
export type ImageConfigBlob = {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `NAME=value`. */
  readonly env: readonly string[];
  readonly workingDir: string;
  readonly user: string;
  readonly stopSignal: string;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** Digests of the uncompressed layers, lowest first. */
  readonly diffIds: readonly string[];
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
  /** RFC 3339; '' when the image does not set it. */
  readonly created: string;
};

/** Registries need not accept manifests above 4 MiB; this is twice that. Source: OCI distribution spec, "Pushing manifests". */
export const manifestBytesMax = 8 << 20;
/** The most layers that Linux stacks in one overlay. Source: fs/overlayfs/params.h, OVL_MAX_STACK. */
const layersMax = 500;
export const imageConfigBytesMax = 8 << 20;
/** The most elements in a list, far above what execve(2) accepts. */
const listLengthMax = 10_000;
const indexManifestsMax = 5000;
const mediaTypeLengthMax = 255;
/** Limit of the user and other short strings: they are part of every image list, which must stay below the kubelet's limit of 16 MiB. */
const wordLengthMax = 1024;
/** PATH_MAX. */
const pathLengthMax = 4096;

const indexTypes: readonly string[] = ['application/vnd.oci.image.index.v1+json', 'application/vnd.docker.distribution.manifest.list.v2+json'];
const manifestTypes: readonly string[] = ['application/vnd.oci.image.manifest.v1+json', 'application/vnd.docker.distribution.manifest.v2+json'];
const schema1Types: readonly string[] = [
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
];
/** The last one is for registries before 2017, which did not label configs. */
const configTypes: readonly string[] = [
  'application/vnd.oci.image.config.v1+json',
  'application/vnd.docker.container.image.v1+json',
  'application/octet-stream',
];
/** Includes foreign and non-distributable layers: they are fetched from the registry like all others; their URLs are never followed. */
const layerTypePattern =
  /^application\/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:\.gzip|\.zstd)?)$/;

/** The Accept header of manifest requests. */
export const manifestAccept: string = [...indexTypes, ...manifestTypes, '*/*;q=0.1'].join(', ');

/**
 * Parses a manifest or index.
 *
 * @param mediaType from the registry. If the body contains one too, both must be of the same kind.
 * @throws {BerthError} FAILED_PRECONDITION when the bytes are not a manifest or index of an image that berth can use.
 */
export function parseManifest(bytes: Buffer, mediaType: string): ParsedManifest {
  if (bytes.length > manifestBytesMax) throw failedPrecondition(`manifest: size of ${bytes.length} bytes exceeds the limit of ${manifestBytesMax}`);
  const document = parseFields(bytes, 'manifest', manifestFields);
  const kind = kindOf(document, mediaType);
  // Different readers would see different images. Source: CVE-2021-41190.
  if (document.manifests !== undefined && (document.layers !== undefined || document.config !== undefined)) {
    throw failedPrecondition('manifest: is both an image index and an image manifest');
  }
  return kind === 'index' ? parseIndex(document) : parseImageManifest(document);
}

const manifestFields = ['schemaVersion', 'mediaType', 'manifests', 'config', 'layers'] as const;
type ManifestFields = { readonly [N in (typeof manifestFields)[number]]: unknown };

/**
 * Returns the media type of a document: that of the header if it is known, else the one found in the document.
 * Registries send none, or an unspecific one (`text/plain`, `application/json`). Falls back to the header's.
 */
export function toMediaType(contentType: string | undefined, bytes: Buffer): string {
  const sent = (contentType ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
  if (kindOfType(sent) !== undefined) return sent;
  try {
    const document = parseFields(bytes, 'manifest', manifestFields);
    if (typeof document.mediaType === 'string' && kindOfType(document.mediaType) !== undefined) return document.mediaType;
    if (document.schemaVersion === 1) return 'application/vnd.docker.distribution.manifest.v1+json';
    if (Array.isArray(document.manifests)) return 'application/vnd.oci.image.index.v1+json';
    if (Array.isArray(document.layers)) return 'application/vnd.oci.image.manifest.v1+json';
  } catch {
    // parseManifest() reports the reason.
  }
  return sent;
}

/** Reports whether the media type is that of a manifest or index which parseManifest() reads. */
export function isManifestType(mediaType: string): boolean {
  const kind = kindOfType(mediaType);
  return kind === 'index' || kind === 'manifest';
}

function kindOfType(mediaType: string): 'index' | 'manifest' | 'schema1' | undefined {
  if (indexTypes.includes(mediaType)) return 'index';
  if (manifestTypes.includes(mediaType)) return 'manifest';
  return schema1Types.includes(mediaType) ? 'schema1' : undefined;
}

function kindOf(document: ManifestFields, mediaType: string): 'index' | 'manifest' {
  const kind = kindOfType(mediaType);
  if (kind === 'schema1' || document.schemaVersion === 1) {
    throw failedPrecondition('manifest: Docker schema 1 is not supported; push the image again with a current tool');
  }
  if (kind === undefined) throw failedPrecondition(`manifest: unsupported media type ${quoted(mediaType)}`);
  // Some tools omit it; the media type says the same.
  if (document.schemaVersion !== undefined && document.schemaVersion !== 2) throw failedPrecondition('manifest: schemaVersion must be 2');
  const inBody = toOptionalText(document.mediaType, 'manifest mediaType');
  if (inBody !== '' && kindOfType(inBody) !== kind) {
    throw failedPrecondition(`manifest: Content-Type ${quoted(mediaType)} does not match mediaType ${quoted(inBody)}`);
  }
  return kind;
}

function parseIndex(document: ManifestFields): ParsedIndex {
  return { kind: 'index', ...parseEntries(toList(document.manifests, 'index manifests', indexManifestsMax), 'index manifests') };
}

/** Parses the entries of an index. One that cannot be used does not affect the others: it may be for another tool, or of a newer format. */
function parseEntries(entries: readonly unknown[], what: string): Omit<ParsedIndex, 'kind'> {
  const manifests: Descriptor[] = [];
  const refusals: string[] = [];
  for (const [position, value] of entries.entries()) {
    const descriptor = orRefusal(() => parseDescriptor(value, `${what}[${position}]`));
    if (descriptor instanceof BerthError) refusals.push(descriptor.message);
    else manifests.push(descriptor);
  }
  return { manifests, refusals };
}

/** Returns the BerthError that `read` throws, else its result. */
export function orRefusal<T>(read: () => T): T | BerthError {
  try {
    return read();
  } catch (error) {
    if (error instanceof BerthError) return error;
    throw error;
  }
}

function parseImageManifest(document: ManifestFields): ParsedManifest {
  const config = parseDescriptor(document.config, 'manifest config');
  if (!configTypes.includes(config.mediaType)) {
    throw failedPrecondition(`manifest: not a container image: config of type ${quoted(config.mediaType)}`);
  }
  const layers = toList(document.layers, 'manifest layers', layersMax).map((value, position) => {
    const layer = parseDescriptor(value, `manifest layers[${position}]`);
    if (!layerTypePattern.test(layer.mediaType)) throw unusableLayer(layer.mediaType, position);
    return layer;
  });
  return { kind: 'manifest', config, layers };
}

function unusableLayer(mediaType: string, position: number): BerthError {
  const reason = mediaType.endsWith('+encrypted') ? 'encrypted layers are not supported' : `unsupported media type ${quoted(mediaType)}`;
  return failedPrecondition(`manifest layers[${position}]: ${reason}`);
}

/** Parses a descriptor. @throws {BerthError} FAILED_PRECONDITION when it is malformed. */
export function parseDescriptor(value: unknown, what: string): Descriptor {
  const document = toFields(value, what, ['mediaType', 'digest', 'size', 'platform']);
  const mediaType = toOptionalText(document.mediaType, `${what} mediaType`);
  if (mediaType.length > mediaTypeLengthMax) throw failedPrecondition(`${what}: media type longer than ${mediaTypeLengthMax} characters`);
  const digest = toOptionalText(document.digest, `${what} digest`);
  if (!isDigest(digest)) throw failedPrecondition(`${what}: digest ${quoted(digest)} is neither sha256 nor sha512`);
  const descriptor = { mediaType, digest, sizeBytes: toOptionalSizeBytes(document.size, `${what} size`) };
  return document.platform === undefined ? descriptor : { ...descriptor, platform: parsePlatform(document.platform, `${what} platform`) };
}

function parsePlatform(value: unknown, what: string): Platform {
  const document = toFields(value, what, ['os', 'architecture', 'variant']);
  const os = toOptionalText(document.os, `${what} os`);
  const architecture = toOptionalText(document.architecture, `${what} architecture`);
  const variant = toOptionalText(document.variant, `${what} variant`);
  return variant === '' ? { os, architecture } : { os, architecture, variant };
}

/**
 * Returns the manifests of an index that the node can run: those for the newest variant of its architecture first, those without a platform last,
 * equal ones in the order of the index. Attestations (`unknown/unknown`) are never among them. They may be indexes themselves.
 *
 * @throws {BerthError} NOT_FOUND with the available platforms when there are none.
 */
export function selectPlatform({ manifests, refusals }: Omit<ParsedIndex, 'kind'>, platform: Platform): readonly Descriptor[] {
  const accepted = acceptedVariants(platform);
  const ranked = manifests.map((descriptor) => ({ descriptor, rank: rankOf(descriptor, platform, accepted) }));
  const usable = ranked.filter(({ rank }) => rank >= 0).sort((a, b) => a.rank - b.rank);
  if (usable.length > 0) return usable.map(({ descriptor }) => descriptor);
  const platforms = manifests.map((descriptor) => descriptor.platform).filter(isNamed);
  const available = [...new Set(platforms.map(platformText))];
  const list = available.length === 0 ? 'none' : quoted(available.join(', '), 300);
  const others = refusals.length === 0 ? '' : `; ${refusals.length} entries cannot be used: ${refusals[0]}`;
  throw notFound(`no image for platform ${platformText(platform)}; available: ${list}${others}`);
}

/** Returns a rank, lower is better; -1 when it cannot run here. */
function rankOf(descriptor: Descriptor, platform: Platform, accepted: readonly string[]): number {
  if (!isManifestType(descriptor.mediaType)) return -1;
  // Tools that pack a single image omit it. The config is checked later.
  if (descriptor.platform === undefined) return accepted.length;
  const { os, architecture, variant } = normalized(descriptor.platform);
  const fits = (os === '' || os === platform.os) && architecture === normalized(platform).architecture;
  return fits ? accepted.indexOf(variant ?? '') : -1;
}

function isNamed(platform: Platform | undefined): platform is Platform {
  return platform !== undefined && platform.os !== 'unknown';
}

/** Parses an image config. @throws {BerthError} FAILED_PRECONDITION when the bytes are not an image config. */
export function parseImageConfig(bytes: Buffer): ImageConfigBlob {
  if (bytes.length > imageConfigBytesMax) {
    throw failedPrecondition(`image config: size of ${bytes.length} bytes exceeds the limit of ${imageConfigBytesMax}`);
  }
  const document = parseFields(bytes, 'image config', ['config', 'rootfs', 'os', 'architecture', 'variant', 'created']);
  const config = toFields(document.config, 'image config', defaultFields);
  return {
    entrypoint: entrypointOf(config.Entrypoint),
    cmd: commandOf(config.Cmd, 'image config Cmd'),
    env: environmentOf(config.Env),
    workingDir: toWord(config.WorkingDir, 'image config WorkingDir', pathLengthMax),
    user: toWord(config.User, 'image config User'),
    stopSignal: toWord(config.StopSignal, 'image config StopSignal'),
    volumes: toOptionalEntries(config.Volumes, 'image config Volumes', listLengthMax).map(([path]) => toText(path, 'image config Volumes')),
    labels: toOptionalTextMap(config.Labels, 'image config Labels', listLengthMax),
    diffIds: diffIdsOf(document.rootfs),
    os: toWord(document.os, 'image config os'),
    architecture: toWord(document.architecture, 'image config architecture'),
    variant: toWord(document.variant, 'image config variant'),
    created: toWord(document.created, 'image config created'),
  };
}

const defaultFields = ['Entrypoint', 'Cmd', 'Env', 'WorkingDir', 'User', 'StopSignal', 'Volumes', 'Labels'] as const;

function toWord(value: unknown, what: string, lengthMax = wordLengthMax): string {
  const text = toOptionalText(value, what);
  if (text.length > lengthMax) throw failedPrecondition(`${what}: ${text.length} characters exceed the limit of ${lengthMax}`);
  return text;
}

/** Checks that manifest and config have the same number of layers. @throws {BerthError} FAILED_PRECONDITION when they do not. */
export function checkLayerCount(layers: readonly Descriptor[], config: ImageConfigBlob): void {
  if (layers.length !== config.diffIds.length) {
    throw failedPrecondition(`image config: ${config.diffIds.length} layers, but the manifest has ${layers.length}`);
  }
}

/** Accepts a string: old builders wrote a command without arguments that way. */
function commandOf(value: unknown, what: string): readonly string[] {
  return typeof value === 'string' ? [toText(value, what)] : toOptionalTexts(value, what, listLengthMax);
}

/** An entry point of one empty string is none: with it, builders reset that of their base image. Source: Docker's daemon/commit.go (facts). */
function entrypointOf(value: unknown): readonly string[] {
  const entrypoint = commandOf(value, 'image config Entrypoint');
  return entrypoint.length === 1 && entrypoint[0] === '' ? [] : entrypoint;
}

/** Omits entries without `=`, as other runtimes do. */
function environmentOf(value: unknown): readonly string[] {
  return toOptionalTexts(value, 'image config Env', listLengthMax).filter((entry) => entry.indexOf('=') > 0);
}

function diffIdsOf(value: unknown): readonly string[] {
  const rootfs = toFields(value, 'image config rootfs', ['type', 'diff_ids']);
  const type = toOptionalText(rootfs.type, 'image config rootfs type');
  if (type !== '' && type !== 'layers') throw failedPrecondition('image config rootfs: type must be "layers"');
  const diffIds = toOptionalTexts(rootfs.diff_ids, 'image config diff_ids', layersMax);
  const malformed = diffIds.find((diffId) => !isDigest(diffId));
  if (malformed !== undefined) throw failedPrecondition(`image config diff_ids: ${quoted(malformed)} is neither a sha256 nor a sha512 digest`);
  return diffIds;
}
