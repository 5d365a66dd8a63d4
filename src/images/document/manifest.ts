/**
 * Parses and validates indexes, manifests and image configs, OCI and Docker.
 *
 * The input is untrusted. Pure: never fetches, and returns only fields that it has checked.
 */
import { type BerthError, failedPrecondition, notFound } from '../../lib/errors.ts';
import { acceptedVariants, normalized, type Platform, platformText } from './platform.ts';
import { isDigest } from './reference.ts';
import {
  type JsonObject,
  parseJsonObject,
  quoted,
  toArray,
  toObject,
  toOptionalEntries,
  toOptionalText,
  toOptionalTextMap,
  toOptionalTexts,
  toSizeBytes,
  toText,
} from './untrusted-json.ts';

export type Descriptor = {
  readonly mediaType: string;
  /** `sha256:…` or `sha512:…`, well-formed. */
  readonly digest: string;
  readonly sizeBytes: number;
  /** Only in an index. */
  readonly platform?: Platform;
};

export type ParsedManifest =
  | { readonly kind: 'index'; readonly manifests: readonly Descriptor[] }
  | { readonly kind: 'manifest'; readonly config: Descriptor; readonly layers: readonly Descriptor[] };

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
  const document = parseJsonObject(bytes, 'manifest');
  const kind = kindOf(document, mediaType);
  // Different readers would see different images. Source: CVE-2021-41190.
  if (document.manifests !== undefined && (document.layers !== undefined || document.config !== undefined)) {
    throw failedPrecondition('manifest: is both an image index and an image manifest');
  }
  return kind === 'index' ? parseIndex(document) : parseImageManifest(document);
}

/**
 * Returns the media type of a document: that of the header if it is known, else the one found in the document.
 * Registries send none, or an unspecific one (`text/plain`, `application/json`). Falls back to the header's.
 */
export function toMediaType(contentType: string | undefined, bytes: Buffer): string {
  const sent = (contentType ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
  if (kindOfType(sent) !== undefined) return sent;
  try {
    const document = parseJsonObject(bytes, 'manifest');
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

function kindOf(document: JsonObject, mediaType: string): 'index' | 'manifest' {
  const kind = kindOfType(mediaType);
  if (kind === 'schema1' || document.schemaVersion === 1) {
    throw failedPrecondition('manifest: Docker schema 1 is not supported; push the image again with a current tool');
  }
  if (kind === undefined) throw failedPrecondition(`manifest: unsupported media type ${quoted(mediaType)}`);
  if (document.schemaVersion !== 2) throw failedPrecondition('manifest: schemaVersion must be 2');
  const inBody = toOptionalText(document.mediaType, 'manifest mediaType');
  if (inBody !== '' && kindOfType(inBody) !== kind) {
    throw failedPrecondition(`manifest: Content-Type ${quoted(mediaType)} does not match mediaType ${quoted(inBody)}`);
  }
  return kind;
}

function parseIndex(document: JsonObject): ParsedManifest {
  const manifests = toArray(document.manifests, 'index manifests', indexManifestsMax);
  return { kind: 'index', manifests: manifests.map((value, position) => parseDescriptor(value, `index manifests[${position}]`)) };
}

function parseImageManifest(document: JsonObject): ParsedManifest {
  const config = parseDescriptor(document.config, 'manifest config');
  if (!configTypes.includes(config.mediaType)) {
    throw failedPrecondition(`manifest: not a container image: config of type ${quoted(config.mediaType)}`);
  }
  const layers = toArray(document.layers, 'manifest layers', layersMax).map((value, position) => {
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
  const document = toObject(value, what);
  const mediaType = toText(document.mediaType, `${what} mediaType`);
  if (mediaType.length > mediaTypeLengthMax) throw failedPrecondition(`${what}: media type longer than ${mediaTypeLengthMax} characters`);
  const digest = toText(document.digest, `${what} digest`);
  if (!isDigest(digest)) throw failedPrecondition(`${what}: digest ${quoted(digest)} is neither sha256 nor sha512`);
  const descriptor = { mediaType, digest, sizeBytes: toSizeBytes(document.size, `${what} size`) };
  return document.platform === undefined || document.platform === null
    ? descriptor
    : { ...descriptor, platform: parsePlatform(document.platform, what) };
}

function parsePlatform(value: unknown, what: string): Platform {
  const document = toObject(value, `${what} platform`);
  const os = toOptionalText(document.os, `${what} platform os`);
  const architecture = toOptionalText(document.architecture, `${what} platform architecture`);
  const variant = toOptionalText(document.variant, `${what} platform variant`);
  return variant === '' ? { os, architecture } : { os, architecture, variant };
}

/**
 * Selects the manifest to pull: of the node's architecture, the newest variant that the node can run; of equal ones the first.
 * Attestations (`unknown/unknown`) never match. The result may be an index.
 *
 * @throws {BerthError} NOT_FOUND with the available platforms when none matches.
 */
export function selectPlatform(manifests: readonly Descriptor[], platform: Platform): Descriptor {
  const accepted = acceptedVariants(platform);
  let best: { descriptor: Descriptor; rank: number } | undefined;
  for (const descriptor of manifests) {
    const rank = rankOf(descriptor, platform, accepted);
    if (rank !== undefined && (best === undefined || rank < best.rank)) best = { descriptor, rank };
  }
  if (best !== undefined) return best.descriptor;
  const available = [
    ...new Set(
      manifests
        .map((descriptor) => descriptor.platform)
        .filter(isNamed)
        .map(platformText),
    ),
  ];
  const list = available.length === 0 ? 'none' : quoted(available.join(', '), 300);
  throw notFound(`no image for platform ${platformText(platform)}; available: ${list}`);
}

/** Returns a rank, lower is better; undefined when it cannot run here. */
function rankOf(descriptor: Descriptor, platform: Platform, accepted: readonly string[]): number | undefined {
  if (!isManifestType(descriptor.mediaType)) return undefined;
  // Tools that pack a single image omit it. The config is checked later.
  if (descriptor.platform === undefined) return accepted.length;
  const { os, architecture, variant } = normalized(descriptor.platform);
  if (os !== platform.os || architecture !== normalized(platform).architecture) return undefined;
  const rank = accepted.indexOf(variant ?? '');
  return rank < 0 ? undefined : rank;
}

function isNamed(platform: Platform | undefined): platform is Platform {
  return platform !== undefined && platform.os !== 'unknown';
}

/** Parses an image config. @throws {BerthError} FAILED_PRECONDITION when the bytes are not an image config. */
export function parseImageConfig(bytes: Buffer): ImageConfigBlob {
  if (bytes.length > imageConfigBytesMax) {
    throw failedPrecondition(`image config: size of ${bytes.length} bytes exceeds the limit of ${imageConfigBytesMax}`);
  }
  const document = parseJsonObject(bytes, 'image config');
  const config = document.config === undefined || document.config === null ? {} : toObject(document.config, 'image config');
  return {
    entrypoint: commandOf(config.Entrypoint, 'image config Entrypoint'),
    cmd: commandOf(config.Cmd, 'image config Cmd'),
    env: environmentOf(config),
    workingDir: toWord(config.WorkingDir, 'image config WorkingDir', pathLengthMax),
    user: toWord(config.User, 'image config User'),
    stopSignal: toWord(config.StopSignal, 'image config StopSignal'),
    volumes: toOptionalEntries(config.Volumes, 'image config Volumes', listLengthMax).map(([path]) => toText(path, 'image config Volumes')),
    labels: toOptionalTextMap(config.Labels, 'image config Labels', listLengthMax),
    diffIds: diffIdsOf(document),
    os: toWord(document.os, 'image config os'),
    architecture: toWord(document.architecture, 'image config architecture'),
    variant: toWord(document.variant, 'image config variant'),
    created: toWord(document.created, 'image config created'),
  };
}

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

/** Omits entries without `=`, as other runtimes do. */
function environmentOf(config: JsonObject): readonly string[] {
  return toOptionalTexts(config.Env, 'image config Env', listLengthMax).filter((entry) => entry.indexOf('=') > 0);
}

function diffIdsOf(document: JsonObject): readonly string[] {
  const rootfs = toObject(document.rootfs, 'image config rootfs');
  if (rootfs.type !== 'layers') throw failedPrecondition('image config rootfs: type must be "layers"');
  const diffIds = toOptionalTexts(rootfs.diff_ids, 'image config diff_ids', layersMax);
  const malformed = diffIds.find((diffId) => !isDigest(diffId));
  if (malformed !== undefined) throw failedPrecondition(`image config diff_ids: ${quoted(malformed)} is neither a sha256 nor a sha512 digest`);
  return diffIds;
}
