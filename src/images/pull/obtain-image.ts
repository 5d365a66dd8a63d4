/**
 * Fetches an image from a source into the store: resolves and checks its manifests, fetches the missing layers, and publishes it.
 *
 * The source is a registry or an archive. After a failure, complete layers are kept for a while for the next attempt; all else is removed.
 */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { BerthError, failedPrecondition } from '../../lib/errors.ts';
import { type Trace, untraced } from '../../lib/spans.ts';
import {
  checkLayerCount,
  type Descriptor,
  type ImageConfigBlob,
  imageConfigBytesMax,
  orRefusal,
  parseImageConfig,
  parseManifest,
  selectPlatform,
} from '../document/manifest.ts';
import { checkPlatform, type Platform } from '../document/platform.ts';
import type { TransferAccount } from '../document/transfer.ts';
import type { FetchedManifest, RegistrySession } from '../registry/registry.ts';
import type { ImageLayer, ImageRecord } from '../store/image-record.ts';
import type { ImageStore, NewImage } from '../store/store.ts';
import { type LayerTimes, timesToAttributes } from '../unpack/stopwatch.ts';
import type { LayerSource, SharedLayers } from './shared-layers.ts';

/** The source of manifests and configs. */
export type DocumentSource = Pick<RegistrySession, 'fetchManifest' | 'fetchSmallBlob'>;

/** The checked documents of an image. */
export type ResolvedImage = {
  /** Of the manifest or index that the name refers to, and of the manifests reached through it. */
  readonly digests: readonly string[];
  readonly configBytes: Buffer;
  readonly config: ImageConfigBlob;
  /** Lowest first, each with its diff id. */
  readonly layers: readonly { readonly diffId: string; readonly descriptor: Descriptor }[];
};

/** The most nested indexes that are followed. */
const indexDepthMax = 3;
/** The most manifests that are fetched for one image: an index may have many entries without a platform. */
const manifestsMax = 32;

/**
 * Resolves a manifest or index to the config and layers of the image for a platform.
 *
 * @param subject of error messages: `image …`.
 * @throws {BerthError} FAILED_PRECONDITION for invalid documents, NOT_FOUND when no image matches the platform.
 */
export async function resolveImage(source: DocumentSource, top: FetchedManifest, platform: Platform, subject: string): Promise<ResolvedImage> {
  const image = await resolveOrRefuse({ source, platform, subject, budget: { manifests: manifestsMax } }, top, 0);
  if (image instanceof BerthError) throw image;
  return image;
}

/**
 * Resolves the first of several manifests that is an image for a platform. The candidates after one that is missing, malformed or something else,
 * such as an artifact, are tried.
 *
 * @returns the refusal of the first candidate when there is none.
 * @throws {BerthError} when a document cannot be fetched or does not match its digest.
 */
export async function resolveFirst(
  source: DocumentSource,
  candidates: readonly Descriptor[],
  platform: Platform,
  subject: string,
): Promise<ResolvedImage | BerthError> {
  return tryCandidates({ source, platform, subject, budget: { manifests: manifestsMax } }, candidates, 0);
}

type Resolution = {
  readonly source: DocumentSource;
  readonly platform: Platform;
  readonly subject: string;
  readonly budget: { manifests: number };
};

async function resolveOrRefuse(resolution: Resolution, fetched: FetchedManifest, depth: number): Promise<ResolvedImage | BerthError> {
  const { source, platform, subject } = resolution;
  const manifest = orRefusal(() => parseManifest(fetched.bytes, fetched.mediaType));
  if (manifest instanceof BerthError) return manifest;
  if (manifest.kind === 'manifest') {
    const configBytes = await source.fetchSmallBlob(manifest.config, imageConfigBytesMax);
    const image = orRefusal(() => pairLayers(configBytes, manifest.layers, platform));
    return image instanceof BerthError ? image : { digests: [fetched.digest], ...image };
  }
  if (depth === indexDepthMax) return failedPrecondition(`${subject}: more than ${indexDepthMax} nested indexes`);
  const candidates = orRefusal(() => selectPlatform(manifest, platform));
  if (candidates instanceof BerthError) return candidates;
  const image = await tryCandidates(resolution, candidates, depth + 1);
  return image instanceof BerthError ? image : { ...image, digests: [fetched.digest, ...image.digests] };
}

async function tryCandidates(resolution: Resolution, candidates: readonly Descriptor[], depth: number): Promise<ResolvedImage | BerthError> {
  const { source, subject, budget } = resolution;
  let refusal: BerthError | undefined;
  for (const candidate of candidates) {
    if (budget.manifests === 0) break;
    budget.manifests -= 1;
    const next = await fetchOrRefuse(source, candidate, subject);
    const image = next instanceof BerthError ? next : await resolveOrRefuse(resolution, next, depth);
    if (!(image instanceof BerthError)) return image;
    refusal ??= image;
  }
  return refusal ?? failedPrecondition(`${subject}: more than ${manifestsMax} manifests that are not an image for this platform`);
}

/** @returns the error when the source does not have the manifest, as with an index of which only some platforms were copied. */
async function fetchOrRefuse(source: DocumentSource, { digest, sizeBytes }: Descriptor, subject: string): Promise<FetchedManifest | BerthError> {
  const found = await source.fetchManifest(digest).catch((error: unknown) => {
    if (error instanceof BerthError && error.code === 'NOT_FOUND') return error;
    throw error;
  });
  if (found instanceof BerthError || sizeBytes === 0 || found.bytes.length === sizeBytes) return found;
  throw failedPrecondition(`${subject}: manifest ${digest}: ${found.bytes.length} bytes instead of ${sizeBytes}`);
}

/**
 * Parses the config and pairs the layers with their diff ids.
 *
 * @throws {BerthError} FAILED_PRECONDITION when the number of layers differs, NOT_FOUND for an image of another platform.
 */
export function pairLayers(configBytes: Buffer, descriptors: readonly Descriptor[], platform: Platform): Omit<ResolvedImage, 'digests'> {
  const config = parseImageConfig(configBytes);
  checkPlatform(config, platform);
  // An image without layers is valid: its files may come from volumes.
  checkLayerCount(descriptors, config);
  return { configBytes, config, layers: descriptors.map((descriptor, position) => ({ descriptor, diffId: config.diffIds[position] ?? '' })) };
}

export type ObtainDeps = { readonly store: ImageStore; readonly shared: SharedLayers; readonly trace?: Trace };

export type ObtainRequest = {
  readonly image: ResolvedImage;
  readonly source: LayerSource;
  readonly names: Omit<NewImage, 'config' | 'layers'>;
  readonly account: TransferAccount;
  readonly signal: AbortSignal;
};

export type ObtainedImage = { readonly image: ImageRecord; readonly layers: number; readonly times: readonly LayerTimes[] };

/** Fetches the missing layers and stores the image. @throws {BerthError} of the source or of a layer; the signal's reason when it is aborted. */
export async function obtainImage(deps: ObtainDeps, request: ObtainRequest): Promise<ObtainedImage> {
  const { image, names, account, signal } = request;
  const { diffIds } = image.config;
  const ownerId = `pull ${randomUUID()}`;
  // Before checking which layers exist: existing ones must not be removed meanwhile.
  deps.store.lease(ownerId, diffIds);
  await deps.store.layers.forgetDeleted(diffIds);
  const missing = [...new Map(image.layers.map((layer) => [layer.diffId, layer])).values()].filter(
    (layer) => deps.store.layers.facts(layer.diffId) === undefined,
  );
  account.plan(missing.map(({ descriptor }) => descriptor));
  try {
    const times = await fetchLayers(deps, request, missing);
    signal.throwIfAborted();
    account.publishing();
    await deps.store.layers.restoreParents(diffIds);
    const layers = image.layers.map(
      ({ diffId, descriptor }): ImageLayer => ({ diffId, digest: descriptor.digest, compressedBytes: descriptor.sizeBytes }),
    );
    const stored = await (deps.trace ?? untraced)('pull.publish', () => deps.store.put({ config: image.configBytes, layers, ...names }));
    deps.store.layers.release(ownerId);
    return { image: stored, layers: missing.length, times };
  } catch (error) {
    if (isWorthKeeping(error)) await deps.store.releaseUnfinished(ownerId, diffIds);
    else await deps.store.release(ownerId);
    throw error;
  }
}

/** Reports whether the next attempt may succeed. An invalid image stays invalid. */
function isWorthKeeping(error: unknown): boolean {
  return !(
    error instanceof BerthError &&
    (error.code === 'FAILED_PRECONDITION' || error.code === 'INVALID_ARGUMENT' || error.code === 'UNIMPLEMENTED')
  );
}

/** Fetches all missing layers concurrently. The first failure cancels the others and is thrown once all have ended. */
async function fetchLayers(
  deps: ObtainDeps,
  { source, account, signal: callerSignal }: ObtainRequest,
  missing: ResolvedImage['layers'],
): Promise<readonly LayerTimes[]> {
  const others = new AbortController();
  const signal = AbortSignal.any([callerSignal, others.signal]);
  // Every waiting layer adds a listener.
  setMaxListeners(0, signal);
  const times: LayerTimes[] = [];
  const obtain = ({ diffId, descriptor }: (typeof missing)[number]) =>
    (deps.trace ?? untraced)('pull.layer', async (span) => {
      span.set({ 'layer.digest': descriptor.digest, 'layer.bytes': descriptor.sizeBytes });
      const onTimes = (each: LayerTimes): void => {
        times.push(each);
        span.set(timesToAttributes(each));
      };
      const onBytes = (count: number): void => account.received(descriptor.digest, count);
      await deps.shared.obtain({ diffId, descriptor, source, signal, onBytes, onTimes });
      account.done(descriptor.digest);
    });
  const fetches = missing.map(async (layer) => {
    try {
      await obtain(layer);
    } catch (error) {
      others.abort(error);
      throw error;
    }
  });
  await Promise.allSettled(fetches);
  if (callerSignal.aborted) throw callerSignal.reason;
  if (others.signal.aborted) throw others.signal.reason;
  return times;
}
