/**
 * Layers on their way into the store, each fetched once however many pulls want it at the same time.
 *
 * A layer that is whole is published by itself, so that a pull that fails later need not fetch it again. Keeps nothing from removal: a pull has its
 * lease on all layers before it asks here.
 *
 * A break within a pull costs the bytes that were lost (blob.ts asks for the rest by range). From one pull to the next, and over a daemon's death, what
 * is kept is whole layers: half of one is the state of a decompressor and two hashes in a worker's memory, which cannot be saved, and to keep its
 * compressed bytes instead every pull would write them all to the disk a second time, for the few that are cut off.
 */
import { BerthError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import type { Descriptor } from '../document/manifest.ts';
import type { RegistrySession } from '../registry/registry.ts';
import type { ImageStore } from '../store/store.ts';
import type { LayerTimes } from '../unpack/stopwatch.ts';
import type { Unpacker } from '../unpack/unpack.ts';

/** Where layers come from. */
export type LayerSource = Pick<RegistrySession, 'openBlob' | 'avoidMirrors'>;

export type LayerRequest = {
  readonly diffId: string;
  readonly descriptor: Descriptor;
  readonly source: LayerSource;
  readonly signal: AbortSignal;
  readonly onBytes: (count: number) => void;
  /** Told of a layer that this very pull had unpacked. */
  readonly onTimes: (times: LayerTimes) => void;
};

export type SharedLayers = {
  /** Resolves when the layer is in its place, unpacked and checked. Nothing is under way any more on its behalf alone when it rejects. */
  readonly obtain: (request: LayerRequest) => Promise<void>;
};

export type SharedLayersDeps = { readonly store: ImageStore; readonly unpacker: Pick<Unpacker, 'unpack'>; readonly log?: Log };

export function createSharedLayers(deps: SharedLayersDeps): SharedLayers {
  const underWay = new Map<string, Promise<void>>();

  const start = async (request: LayerRequest): Promise<void> => {
    const result = fetchLayer(deps, request);
    underWay.set(request.diffId, result);
    try {
      await result;
    } finally {
      underWay.delete(request.diffId);
    }
  };

  const obtain = async (request: LayerRequest): Promise<void> => {
    while (deps.store.layers.facts(request.diffId) === undefined) {
      const other = underWay.get(request.diffId);
      if (other === undefined) return await start(request);
      await settled(other, request.signal);
      // Whatever stopped the other pull need not stop this one: it has its own registry and credentials.
      request.signal.throwIfAborted();
    }
  };

  return { obtain };
}

/** Resolves when the promise has ended, however it did, or the signal was aborted. */
async function settled(promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const { promise: aborted, resolve } = Promise.withResolvers<void>();
  const abort = (): void => resolve();
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  try {
    await Promise.race([promise.catch(() => undefined), aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function fetchLayer(deps: SharedLayersDeps, request: LayerRequest): Promise<void> {
  try {
    return await unpackOnce(deps, request);
  } catch (error) {
    // A mirror that gives wrong bytes is asked no more, and the registry itself has the last word.
    const isWrong = error instanceof BerthError && (error.code === 'FAILED_PRECONDITION' || error.code === 'INVALID_ARGUMENT');
    if (request.signal.aborted || !isWrong || !request.source.avoidMirrors()) throw error;
    deps.log?.warn({ layer: request.descriptor.digest, reason: error.message }, "a mirror's layer is wrong, asking the registry itself");
    return await unpackOnce(deps, request);
  }
}

async function unpackOnce(deps: SharedLayersDeps, request: LayerRequest): Promise<void> {
  const { diffId, descriptor, source } = request;
  const { stagingDir, filesDir, tarSplitFile } = await deps.store.layers.stage();
  try {
    const job = { directory: filesDir, tarSplitFile, digest: descriptor.digest, diffId, sizeBytes: descriptor.sizeBytes };
    const open = async () => (await source.openBlob(descriptor)).stream;
    const { refusedXattrs, times, ...facts } = await deps.unpacker.unpack(job, open, request.signal, request.onBytes);
    if (refusedXattrs.length > 0) deps.log?.warn({ layer: descriptor.digest, refusedXattrs }, 'the file system does not take these attributes');
    request.onTimes(times);
    await deps.store.layers.publish({ diffId, stagingDir, facts });
  } finally {
    // What was published is not there any more.
    await deps.store.layers.discard(stagingDir);
  }
}
