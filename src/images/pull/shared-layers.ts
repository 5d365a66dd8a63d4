/**
 * Fetches layers into the store. Concurrent pulls share the fetch of a layer. Does no I/O itself: the store and the unpacker do.
 *
 * Each complete layer is published on its own, so that a pull that fails later need not fetch it again. Does not protect layers from removal: a
 * pull leases all its layers first.
 *
 * After a broken connection a pull resumes (blob.ts requests the rest by range). Across pulls and restarts of the daemon, only complete layers are
 * kept. A partial layer is the state of a decompressor and of two hashes in a worker's memory, which cannot be saved; keeping its compressed bytes
 * would make every pull write them to the disk a second time, for the few pulls that are interrupted.
 */
import { BerthError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import type { Descriptor } from '../document/manifest.ts';
import type { RegistrySession } from '../registry/registry.ts';
import type { ImageStore } from '../store/store.ts';
import type { LayerTimes } from '../unpack/stopwatch.ts';
import type { Unpacker } from '../unpack/unpack.ts';

/** The source of layers. */
export type LayerSource = Pick<RegistrySession, 'openBlob' | 'avoidMirrors'>;

export type LayerRequest = {
  readonly diffId: string;
  readonly descriptor: Descriptor;
  readonly source: LayerSource;
  readonly signal: AbortSignal;
  readonly onBytes: (count: number) => void;
  /** Called if this request unpacked the layer, but not if it waited for another one. */
  readonly onTimes: (times: LayerTimes) => void;
};

export type SharedLayers = {
  /** Resolves when the layer is published, unpacked and checked. When it rejects, no work for this request alone continues. */
  readonly obtain: (request: LayerRequest) => Promise<void>;
};

export type SharedLayersDeps = { readonly store: ImageStore; readonly unpacker: Pick<Unpacker, 'unpack'>; readonly log?: Log };

export function createSharedLayers(deps: SharedLayersDeps): SharedLayers {
  const running = new Map<string, Promise<void>>();

  const start = async (request: LayerRequest): Promise<void> => {
    const result = fetchLayer(deps, request);
    running.set(request.diffId, result);
    try {
      await result;
    } finally {
      running.delete(request.diffId);
    }
  };

  const obtain = async (request: LayerRequest): Promise<void> => {
    while (deps.store.layers.facts(request.diffId) === undefined) {
      const other = running.get(request.diffId);
      if (other === undefined) return await start(request);
      await settled(other, request.signal);
      // A failure of the other pull need not affect this one, which has its own registry and credentials.
      request.signal.throwIfAborted();
    }
  };

  return { obtain };
}

/** Resolves when the promise has settled or the signal is aborted. */
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
    // A mirror that sent a corrupt layer is not used again; the registry itself decides.
    const isCorrupt = error instanceof BerthError && (error.code === 'FAILED_PRECONDITION' || error.code === 'INVALID_ARGUMENT');
    if (request.signal.aborted || !isCorrupt || !request.source.avoidMirrors()) throw error;
    deps.log?.warn({ layer: request.descriptor.digest, reason: error.message }, 'corrupt layer from mirror, retrying at the registry');
    return await unpackOnce(deps, request);
  }
}

async function unpackOnce(deps: SharedLayersDeps, request: LayerRequest): Promise<void> {
  const { diffId, descriptor, source } = request;
  const { stagingDir, filesDir, tarSplitFile, impliedFile } = await deps.store.layers.stage();
  try {
    const job = { directory: filesDir, tarSplitFile, impliedFile, digest: descriptor.digest, diffId, sizeBytes: descriptor.sizeBytes };
    const open = async () => (await source.openBlob(descriptor)).stream;
    const { refusedXattrs, times, ...facts } = await deps.unpacker.unpack(job, open, request.signal, request.onBytes);
    if (refusedXattrs.length > 0)
      deps.log?.warn({ layer: descriptor.digest, refusedXattrs }, 'extended attributes not supported by the file system, skipped');
    request.onTimes(times);
    await deps.store.layers.publish({ diffId, stagingDir, facts });
  } finally {
    // Does nothing after publish(), which has moved the directory.
    await deps.store.layers.discard(stagingDir);
  }
}
