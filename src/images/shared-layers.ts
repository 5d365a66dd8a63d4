/**
 * Layers on their way into the store, each fetched once however many pulls want it at the same time.
 *
 * A staged layer lives as long as a pull has it; when the last leaves and nobody has published it, it is removed.
 */
import { BerthError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { StagedLayer } from './layers.ts';
import type { Descriptor } from './manifest.ts';
import type { RegistrySession } from './registry.ts';
import type { ImageStore } from './store.ts';
import type { Unpacker } from './unpack.ts';

export type LayerRequest = {
  /** The pull. */
  readonly ownerId: string;
  readonly diffId: string;
  readonly descriptor: Descriptor;
  readonly session: RegistrySession;
  readonly signal: AbortSignal;
  readonly onBytes: (count: number) => void;
};

export type SharedLayers = {
  /** The layer, unpacked and checked, the owner's until it leaves; undefined when it has come into the store by itself. */
  readonly obtain: (request: LayerRequest) => Promise<StagedLayer | undefined>;
  /** Gives up all that the owner obtained. Idempotent. */
  readonly leave: (ownerId: string) => Promise<void>;
};

export type SharedLayersDeps = { readonly store: ImageStore; readonly unpacker: Pick<Unpacker, 'unpack'>; readonly log?: Log };

type Shared = { readonly result: Promise<StagedLayer>; readonly owners: Set<string> };

export function createSharedLayers(deps: SharedLayersDeps): SharedLayers {
  const underWay = new Map<string, Shared>();

  const start = (request: LayerRequest): Shared => {
    const result = fetchLayer(deps, request);
    const shared: Shared = { result, owners: new Set([request.ownerId]) };
    underWay.set(request.diffId, shared);
    result.catch(() => {
      if (underWay.get(request.diffId) === shared) underWay.delete(request.diffId);
    });
    return shared;
  };

  const obtain = async (request: LayerRequest): Promise<StagedLayer | undefined> => {
    for (;;) {
      if (deps.store.layers.facts(request.diffId) !== undefined) return undefined;
      const other = underWay.get(request.diffId);
      if (other === undefined) return await start(request).result;
      other.owners.add(request.ownerId);
      const staged = await settled(other.result, request.signal);
      if (staged !== undefined) return staged;
      other.owners.delete(request.ownerId);
      // Whatever stopped the other pull need not stop this one: it has its own registry and credentials.
      request.signal.throwIfAborted();
    }
  };

  const leave = async (ownerId: string): Promise<void> => {
    for (const [diffId, shared] of [...underWay]) {
      if (!shared.owners.delete(ownerId) || shared.owners.size > 0) continue;
      underWay.delete(diffId);
      const staged = await shared.result.catch(() => undefined);
      if (staged !== undefined) await deps.store.layers.discard(staged.stagingDir);
    }
  };

  return { obtain, leave };
}

/** The promise's value; undefined when it failed, or the signal was aborted first. */
async function settled<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  const { promise: aborted, resolve } = Promise.withResolvers<undefined>();
  const abort = (): void => resolve(undefined);
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  try {
    return await Promise.race([promise.catch(() => undefined), aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

async function fetchLayer(deps: SharedLayersDeps, request: LayerRequest): Promise<StagedLayer> {
  try {
    return await unpackOnce(deps, request);
  } catch (error) {
    // A mirror that gives wrong bytes is asked no more, and the registry itself has the last word.
    const isWrong = error instanceof BerthError && (error.code === 'FAILED_PRECONDITION' || error.code === 'INVALID_ARGUMENT');
    if (request.signal.aborted || !isWrong || !request.session.avoidMirrors()) throw error;
    deps.log?.warn({ layer: request.descriptor.digest, reason: error.message }, "a mirror's layer is wrong, asking the registry itself");
    return await unpackOnce(deps, request);
  }
}

async function unpackOnce(deps: SharedLayersDeps, request: LayerRequest): Promise<StagedLayer> {
  const { diffId, descriptor, session } = request;
  const { stagingDir, filesDir } = await deps.store.layers.stage();
  try {
    const job = { directory: filesDir, digest: descriptor.digest, diffId, sizeBytes: descriptor.sizeBytes };
    const open = async () => (await session.openBlob(descriptor)).stream;
    const { refusedXattrs, ...facts } = await deps.unpacker.unpack(job, open, request.signal, request.onBytes);
    if (refusedXattrs.length > 0) deps.log?.warn({ layer: descriptor.digest, refusedXattrs }, 'the file system does not take these attributes');
    return { diffId, stagingDir, facts };
  } catch (error) {
    await deps.store.layers.discard(stagingDir);
    throw error;
  }
}
