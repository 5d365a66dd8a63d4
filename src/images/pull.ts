/**
 * One pull, from a name to an image in the store: resolve, check, fetch the layers that are missing, publish. Equal pulls are joined.
 *
 * When it fails, layers that are whole stay for a while, for the next attempt; nothing else does. Knows no protocol of registries, and unpacks nothing itself.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { BerthError, codeOf, type ErrorCode, failedPrecondition, reasonOf } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { type Trace, untraced } from '../lib/spans.ts';
import type { RegistryAuth } from './auth.ts';
import type { ImageLayer, ImageRecord } from './image-record.ts';
import {
  checkLayerCount,
  type Descriptor,
  type ImageConfigBlob,
  imageConfigBytesMax,
  parseImageConfig,
  parseManifest,
  selectPlatform,
} from './manifest.ts';
import { checkPlatform, type Platform } from './platform.ts';
import { formatDigest, formatReference, formatTag, parseReference, type Reference } from './reference.ts';
import type { RegistryClient, RegistrySession } from './registry.ts';
import { createSharedLayers, type SharedLayers } from './shared-layers.ts';
import type { SignaturePolicy } from './signature-policy.ts';
import { type LayerTimes, sumTimes, timesToAttributes } from './stopwatch.ts';
import type { ImageStore } from './store.ts';
import type { Unpacker } from './unpack.ts';

export type PullDeps = {
  readonly store: ImageStore;
  readonly registry: RegistryClient;
  readonly unpacker: Pick<Unpacker, 'unpack'>;
  /** Of this node. */
  readonly platform: Platform;
  /** Undefined: every image is accepted. */
  readonly policy?: SignaturePolicy;
  readonly log?: Log;
  /** For metrics: told of each pull when it ends; of equal ones that were joined, once. */
  readonly observe?: (pull: PullOutcome) => void;
  /** Each step of a pull is a span, of the first caller where several joined. */
  readonly trace?: Trace;
};

/** `result`: `OK`, or the code of the failure. Compressed bytes and layers are those that were fetched; none of a pull that failed. */
export type PullOutcome = { readonly result: ErrorCode | 'OK'; readonly seconds: number; readonly bytes: number; readonly layers: number };

/** Compressed bytes of the layers that this pull fetches. */
export type PullProgress = { readonly doneBytes: number; readonly totalBytes: number };

export type PullRequest = {
  /** As a user writes it. */
  readonly reference: string;
  readonly auth?: RegistryAuth | undefined;
  /** Ends the waiting of this caller; the pull goes on as long as anybody waits. Its reason tells late from cancelled. */
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: PullProgress) => void;
};

export type ImagePuller = {
  /**
   * Asks the registry what the name means now, also when the image is here, and makes it be in the store, whole, under that name.
   *
   * @throws {BerthError} INVALID_ARGUMENT for what is no name; DEADLINE_EXCEEDED or CANCELLED when the signal was aborted; NOT_FOUND,
   *   UNAUTHENTICATED, UNAVAILABLE (`RegistryUnavailable: …`) as the registry answers; FAILED_PRECONDITION for an image that is not what
   *   its digests say, or that the policy does not accept (`SignatureValidationFailed: …`); RESOURCE_EXHAUSTED when it does not fit.
   */
  readonly pullImage: (request: PullRequest) => Promise<ImageRecord>;
};

type Running = {
  readonly result: Promise<ImageRecord>;
  readonly controller: AbortController;
  readonly listeners: Set<(progress: PullProgress) => void>;
  waiters: number;
};

export function createImagePuller(deps: PullDeps): ImagePuller {
  const running = new Map<string, Running>();
  const shared = createSharedLayers(deps);

  const start = (ref: Reference, auth: RegistryAuth | undefined, key: string): Running => {
    const controller = new AbortController();
    const listeners = new Set<(progress: PullProgress) => void>();
    const tell = (progress: PullProgress): void => listeners.forEach((listener) => void listener(progress));
    const result = runPull({ ...deps, shared }, { ref, auth, signal: controller.signal, tell }).finally(() => {
      if (running.get(key) === pull) running.delete(key);
    });
    // Nobody may be left to hear of it.
    result.catch(() => undefined);
    const pull: Running = { result, controller, listeners, waiters: 0 };
    running.set(key, pull);
    return pull;
  };

  const pullImage = async (request: PullRequest): Promise<ImageRecord> => {
    const ref = parseReference(request.reference);
    if (request.signal.aborted) throw givenUp(request.signal, ref);
    // Whoever may not see an image must not get it by joining one who may.
    const key = createHash('sha256')
      .update(JSON.stringify([formatReference(ref), request.auth ?? null]))
      .digest('hex');
    const pull = running.get(key) ?? start(ref, request.auth, key);
    pull.waiters += 1;
    if (request.onProgress !== undefined) pull.listeners.add(request.onProgress);
    try {
      return await untilAborted(pull.result, request.signal, () => givenUp(request.signal, ref));
    } finally {
      pull.waiters -= 1;
      if (request.onProgress !== undefined) pull.listeners.delete(request.onProgress);
      if (pull.waiters === 0 && request.signal.aborted) {
        // From here on a new request starts anew.
        if (running.get(key) === pull) running.delete(key);
        pull.controller.abort(givenUp(request.signal, ref));
      }
    }
  };

  return { pullImage };
}

function givenUp(signal: AbortSignal, ref: Reference): BerthError {
  if (signal.reason instanceof BerthError) return signal.reason;
  const isLate = signal.reason instanceof Error && signal.reason.name === 'TimeoutError';
  const reason = isLate ? 'not done in time' : `given up: ${reasonOf(signal.reason)}`;
  return new BerthError(isLate ? 'DEADLINE_EXCEEDED' : 'CANCELLED', `pulling image ${formatReference(ref)}: ${reason}`);
}

async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal, toError: () => Error): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(toError());
  signal.addEventListener('abort', abort);
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

type RunDeps = PullDeps & { readonly shared: SharedLayers };
type Run = {
  readonly ref: Reference;
  readonly auth: RegistryAuth | undefined;
  readonly signal: AbortSignal;
  readonly tell: (progress: PullProgress) => void;
};

async function runPull(deps: RunDeps, run: Run): Promise<ImageRecord> {
  const startedMs = performance.now();
  try {
    const { image, layers, bytes, times } = await runSession(deps, run);
    const durationMs = Math.round(performance.now() - startedMs);
    deps.observe?.({ result: 'OK', seconds: durationMs / 1000, bytes, layers });
    const bytesPerSecond = Math.round((bytes * 1000) / Math.max(1, durationMs));
    const told = {
      image: formatReference(run.ref),
      id: image.id,
      host: run.ref.domain,
      layers,
      bytes,
      durationMs,
      bytesPerSecond,
      spentMs: sumTimes(times),
    };
    deps.log?.info(told, 'image pulled');
    return image;
  } catch (error) {
    deps.observe?.({ result: codeOf(error), seconds: (performance.now() - startedMs) / 1000, bytes: 0, layers: 0 });
    throw error;
  }
}

type Fetched = { readonly image: ImageRecord; readonly layers: number; readonly bytes: number; readonly times: readonly LayerTimes[] };

async function runSession(deps: RunDeps, run: Run): Promise<Fetched> {
  const session = await deps.registry.openSession(run.ref, run.auth, run.signal);
  try {
    const known = await (deps.trace ?? untraced)('pull.look', async () => wholeImage(deps.store, await knownImage(deps.store, session, run.ref)));
    // Its signatures may be newer than the image.
    const isAccepted = known !== undefined && deps.policy?.refusal([formatReference(run.ref)], known.signatures) === undefined;
    return isAccepted ? { image: known, layers: 0, bytes: 0, times: [] } : await fetchImage(deps, session, run);
  } finally {
    session.close();
  }
}

/** The image, when it is here under this very name and the registry says that the name still means it. */
async function knownImage(store: ImageStore, session: RegistrySession, ref: Reference): Promise<ImageRecord | undefined> {
  if (store.find(formatReference(ref)) === undefined) return undefined;
  const found = await session.resolveTag(ref.digest ?? ref.tag ?? 'latest');
  if (found === undefined || (ref.digest !== undefined && found.digest !== ref.digest)) return undefined;
  const digestName = formatDigest(ref, found.digest);
  // Looked up again: it may have been removed in the meantime.
  const image = store.find(formatReference(ref));
  return image?.repoDigests.includes(digestName) ? image : undefined;
}

/** The image, unless layers of it have been deleted. */
async function wholeImage(store: ImageStore, image: ImageRecord | undefined): Promise<ImageRecord | undefined> {
  if (image === undefined) return undefined;
  await store.layers.forgetDeleted(image.diffIds);
  return image.diffIds.every((diffId) => store.layers.facts(diffId) !== undefined) ? image : undefined;
}

/** What the registry says an image is, all of it checked. */
type Resolved = {
  /** Of the manifest or index that the name stands for. */
  readonly digest: string;
  /** Of that, and of what it led to. */
  readonly digests: readonly string[];
  readonly configBytes: Buffer;
  readonly config: ImageConfigBlob;
  /** Lowest first, each with its diff id. */
  readonly layers: readonly { readonly diffId: string; readonly descriptor: Descriptor }[];
};

async function fetchImage(deps: RunDeps, session: RegistrySession, run: Run): Promise<Fetched> {
  const trace = deps.trace ?? untraced;
  const resolved = await trace('pull.resolve', () => resolve(deps, session, run.ref));
  const { policy } = deps;
  const signatures = policy ? await trace('pull.verify', () => policy.verify(session, run.ref, resolved.digests)) : [];
  const ownerId = `pull ${randomUUID()}`;
  // Before looking which layers are there: what is there must stay.
  deps.store.lease(ownerId, resolved.config.diffIds);
  await deps.store.layers.forgetDeleted(resolved.config.diffIds);
  const missing = [...new Map(resolved.layers.map((layer) => [layer.diffId, layer])).values()].filter(
    (layer) => deps.store.layers.facts(layer.diffId) === undefined,
  );
  const bytes = missing.reduce((total, layer) => total + layer.descriptor.sizeBytes, 0);
  try {
    const times = await fetchLayers(deps, session, run, missing, bytes);
    run.signal.throwIfAborted();
    const layers = resolved.layers.map(
      ({ diffId, descriptor }): ImageLayer => ({ diffId, digest: descriptor.digest, compressedBytes: descriptor.sizeBytes }),
    );
    const named = { tag: formatTag(run.ref), digest: formatDigest(run.ref, resolved.digest) };
    const image = await trace('pull.publish', () => deps.store.put({ config: resolved.configBytes, layers, ...named, signatures }));
    deps.store.layers.release(ownerId);
    return { image, layers: missing.length, bytes, times };
  } catch (error) {
    if (isWorthKeeping(error)) await deps.store.releaseUnfinished(ownerId, resolved.config.diffIds);
    else await deps.store.release(ownerId);
    throw error;
  }
}

/** Whether the next attempt may succeed. An image that is wrong stays wrong. */
function isWorthKeeping(error: unknown): boolean {
  return !(
    error instanceof BerthError &&
    (error.code === 'FAILED_PRECONDITION' || error.code === 'INVALID_ARGUMENT' || error.code === 'UNIMPLEMENTED')
  );
}

/** Indexes within indexes that are followed. */
const indexDepthMax = 3;

async function resolve(deps: RunDeps, session: RegistrySession, ref: Reference): Promise<Resolved> {
  const top = await session.fetchManifest(ref.digest ?? ref.tag ?? 'latest');
  let manifest = parseManifest(top.bytes, top.mediaType);
  const digests = [top.digest];
  for (let depth = 0; manifest.kind === 'index'; depth += 1) {
    if (depth === indexDepthMax) throw failedPrecondition(`image ${formatReference(ref)}: more than ${indexDepthMax} indexes within each other`);
    const chosen = selectPlatform(manifest.manifests, deps.platform);
    const next = await session.fetchManifest(chosen.digest);
    if (next.bytes.length !== chosen.sizeBytes) {
      throw failedPrecondition(`image ${formatReference(ref)}: manifest ${chosen.digest} has ${next.bytes.length} bytes, not ${chosen.sizeBytes}`);
    }
    manifest = parseManifest(next.bytes, next.mediaType);
    digests.push(next.digest);
  }
  const configBytes = await session.fetchSmallBlob(manifest.config, imageConfigBytesMax);
  const config = parseImageConfig(configBytes);
  checkPlatform(config, deps.platform);
  return { digest: top.digest, digests, configBytes, config, layers: pairLayers(manifest.layers, config) };
}

/** None is fine: an image may be a config alone, and get its files from volumes. */
function pairLayers(descriptors: readonly Descriptor[], config: ImageConfigBlob): Resolved['layers'] {
  checkLayerCount(descriptors, config);
  return descriptors.map((descriptor, position) => ({ descriptor, diffId: config.diffIds[position] ?? '' }));
}

/** All missing layers at once; the first failure ends the rest, and is what is thrown once nothing is under way any more. */
async function fetchLayers(
  deps: RunDeps,
  session: RegistrySession,
  run: Run,
  missing: Resolved['layers'],
  totalBytes: number,
): Promise<readonly LayerTimes[]> {
  const others = new AbortController();
  const signal = AbortSignal.any([run.signal, others.signal]);
  // Every layer that waits listens.
  setMaxListeners(0, signal);
  const times: LayerTimes[] = [];
  let doneBytes = 0;
  const onBytes = (count: number): void => {
    doneBytes += count;
    run.tell({ doneBytes, totalBytes });
  };
  const obtain = ({ diffId, descriptor }: (typeof missing)[number]) =>
    (deps.trace ?? untraced)('pull.layer', (span) => {
      span.set({ 'layer.digest': descriptor.digest, 'layer.bytes': descriptor.sizeBytes });
      const onTimes = (each: LayerTimes): void => {
        times.push(each);
        span.set(timesToAttributes(each));
      };
      return deps.shared.obtain({ diffId, descriptor, session, signal, onBytes, onTimes });
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
  if (run.signal.aborted) throw givenUp(run.signal, run.ref);
  if (others.signal.aborted) throw others.signal.reason;
  return times;
}
