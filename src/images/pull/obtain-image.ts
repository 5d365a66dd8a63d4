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

/**
 * Resolves a manifest or index to the config and layers of the image for a platform.
 *
 * @param subject of error messages: `image …`.
 * @throws {BerthError} FAILED_PRECONDITION for invalid documents, NOT_FOUND when no image matches the platform.
 */
export async function resolveImage(source: DocumentSource, top: FetchedManifest, platform: Platform, subject: string): Promise<ResolvedImage> {
  let manifest = parseManifest(top.bytes, top.mediaType);
  const digests = [top.digest];
  for (let depth = 0; manifest.kind === 'index'; depth += 1) {
    if (depth === indexDepthMax) throw failedPrecondition(`${subject}: more than ${indexDepthMax} nested indexes`);
    const chosen = selectPlatform(manifest.manifests, platform);
    const next = await source.fetchManifest(chosen.digest);
    if (next.bytes.length !== chosen.sizeBytes) {
      throw failedPrecondition(`${subject}: manifest ${chosen.digest}: ${next.bytes.length} bytes instead of ${chosen.sizeBytes}`);
    }
    manifest = parseManifest(next.bytes, next.mediaType);
    digests.push(next.digest);
  }
  const configBytes = await source.fetchSmallBlob(manifest.config, imageConfigBytesMax);
  return { digests, ...pairLayers(configBytes, manifest.layers, platform) };
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
