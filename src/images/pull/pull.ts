/**
 * Pulls images: resolves the name, checks the policy, fetches the missing layers, and publishes the image. Identical pulls are joined.
 *
 * After a failure, complete layers are kept for a while for the next attempt; all else is removed. Knows no registry protocol, and unpacks
 * nothing itself.
 */
import { createHash } from 'node:crypto';
import { BerthError, codeOf, type ErrorCode, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { type Trace, untraced } from '../../lib/spans.ts';
import type { Platform } from '../document/platform.ts';
import { formatDigest, formatReference, formatTag, parseReference, type Reference } from '../document/reference.ts';
import { openTransfer, type Transfer, type TransferAccount } from '../document/transfer.ts';
import type { RegistryAuth } from '../registry/challenges.ts';
import type { RegistryClient, RegistrySession } from '../registry/registry.ts';
import type { SignaturePolicy } from '../signature/signature-policy.ts';
import type { ImageRecord } from '../store/image-record.ts';
import type { ImageStore } from '../store/store.ts';
import { sumTimes } from '../unpack/stopwatch.ts';
import { type ObtainedImage, obtainImage, resolveImage } from './obtain-image.ts';
import type { SharedLayers } from './shared-layers.ts';

export type PullDeps = {
  readonly store: ImageStore;
  readonly registry: RegistryClient;
  readonly shared: SharedLayers;
  /** Of this node. */
  readonly platform: Platform;
  /** Undefined: every image is accepted. */
  readonly policy?: SignaturePolicy;
  readonly log?: Log;
  /** Called at the end of each pull, once for joined pulls; for metrics. */
  readonly observe?: (pull: PullOutcome) => void;
  /** Creates a span for each step of a pull. Spans of joined pulls belong to the first caller. */
  readonly trace?: Trace;
};

/** `result`: `OK` or the error code. `bytes`: received compressed bytes of layers. `layers`: 0 for a failed pull. */
export type PullOutcome = {
  readonly result: ErrorCode | 'OK';
  readonly seconds: number;
  readonly bytes: number;
  readonly layers: number;
  readonly retries: number;
};

export type PullRequest = {
  /** The image name as given by the user. */
  readonly reference: string;
  readonly auth?: RegistryAuth | undefined;
  /** Ends the wait of this caller; the pull continues while other callers wait. Its reason distinguishes a timeout from cancellation. */
  readonly signal: AbortSignal;
  /** Receives a function that returns the progress, also when the request joins a running pull. */
  readonly onStart?: (progress: () => Transfer) => void;
};

export type ImagePuller = {
  /**
   * Pulls an image. Always resolves a tag at the registry, even if the image is present. A digest that is present needs no host, unless one
   * denies access to it. On return the complete image is stored under the name.
   *
   * @throws {BerthError} INVALID_ARGUMENT for an invalid name; DEADLINE_EXCEEDED or CANCELLED when the signal is aborted; NOT_FOUND,
   *   UNAUTHENTICATED, UNAVAILABLE (`RegistryUnavailable: …`) by the registry's response; FAILED_PRECONDITION for an invalid image or a
   *   digest mismatch, or when the policy rejects the image (`SignatureValidationFailed: …`); RESOURCE_EXHAUSTED when the disk is full.
   */
  readonly pullImage: (request: PullRequest) => Promise<ImageRecord>;
  /** Returns the running pulls. */
  readonly pulls: () => readonly Transfer[];
};

type Running = {
  readonly result: Promise<ImageRecord>;
  readonly controller: AbortController;
  readonly progress: () => Transfer;
  waiters: number;
};

export function createImagePuller(deps: PullDeps): ImagePuller {
  const running = new Map<string, Running>();

  const start = (ref: Reference, auth: RegistryAuth | undefined, key: string): Running => {
    const controller = new AbortController();
    const account = openTransfer(formatReference(ref), Date.now());
    const result = runPull(deps, { ref, auth, signal: controller.signal, account }).finally(() => {
      if (running.get(key) === pull) running.delete(key);
    });
    // Prevents an unhandled rejection when no caller waits any more.
    result.catch(() => undefined);
    const pull: Running = { result, controller, progress: account.now, waiters: 0 };
    running.set(key, pull);
    return pull;
  };

  const pullImage = async (request: PullRequest): Promise<ImageRecord> => {
    const ref = parseReference(request.reference);
    if (request.signal.aborted) throw abortError(request.signal, ref);
    // Credentials are part of the key: a caller without access must not get the image by joining the pull of one with access.
    const key = createHash('sha256')
      .update(JSON.stringify([formatReference(ref), request.auth ?? null]))
      .digest('hex');
    const pull = running.get(key) ?? start(ref, request.auth, key);
    pull.waiters += 1;
    request.onStart?.(pull.progress);
    try {
      return await untilAborted(pull.result, request.signal, () => abortError(request.signal, ref));
    } finally {
      pull.waiters -= 1;
      if (pull.waiters === 0 && request.signal.aborted) {
        // A later request starts a new pull.
        if (running.get(key) === pull) running.delete(key);
        pull.controller.abort(abortError(request.signal, ref));
      }
    }
  };

  return { pullImage, pulls: () => [...running.values()].map(({ progress }) => progress()) };
}

function abortError(signal: AbortSignal, ref: Reference): BerthError {
  if (signal.reason instanceof BerthError) return signal.reason;
  const isTimeout = signal.reason instanceof Error && signal.reason.name === 'TimeoutError';
  const reason = isTimeout ? 'deadline exceeded' : `canceled: ${reasonOf(signal.reason)}`;
  return new BerthError(isTimeout ? 'DEADLINE_EXCEEDED' : 'CANCELLED', `pull image ${formatReference(ref)}: ${reason}`);
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

type Run = {
  readonly ref: Reference;
  readonly auth: RegistryAuth | undefined;
  readonly signal: AbortSignal;
  readonly account: TransferAccount;
};

async function runPull(deps: PullDeps, run: Run): Promise<ImageRecord> {
  const startedMs = performance.now();
  try {
    const { image, layers, times } = await runSession(deps, run);
    const { receivedBytes: bytes, host, retries } = run.account.now();
    const durationMs = Math.round(performance.now() - startedMs);
    deps.observe?.({ result: 'OK', seconds: durationMs / 1000, bytes, layers, retries });
    const bytesPerSecond = Math.round((bytes * 1000) / Math.max(1, durationMs));
    const fields = {
      image: formatReference(run.ref),
      id: image.id,
      host,
      retries,
      layers,
      bytes,
      durationMs,
      bytesPerSecond,
      spentMs: sumTimes(times),
    };
    deps.log?.info(fields, 'image pulled');
    return image;
  } catch (error) {
    const { receivedBytes: bytes, retries } = run.account.now();
    deps.observe?.({ result: codeOf(error), seconds: (performance.now() - startedMs) / 1000, bytes, layers: 0, retries });
    throw run.signal.aborted ? abortError(run.signal, run.ref) : error;
  }
}

async function runSession(deps: PullDeps, run: Run): Promise<ObtainedImage> {
  const session = await deps.registry.openSession(run.ref, run.auth, run.signal, run.account);
  try {
    const present = await (deps.trace ?? untraced)('pull.look', async () => ifComplete(deps.store, await presentImage(deps.store, session, run.ref)));
    // If the policy rejects it, continue: the registry may have newer signatures.
    const isAccepted = present !== undefined && deps.policy?.refusal([formatReference(run.ref)], present.signatures) === undefined;
    return isAccepted ? { image: present, layers: 0, times: [] } : await fetchImage(deps, session, run);
  } finally {
    session.close();
  }
}

/** Returns the stored image of this name if the registry still resolves the name to it. */
async function presentImage(store: ImageStore, session: RegistrySession, ref: Reference): Promise<ImageRecord | undefined> {
  if (store.find(formatReference(ref)) === undefined) return undefined;
  const digest = ref.digest === undefined ? (await session.resolve(ref.tag ?? 'latest')).digest : await stillAllowed(session, ref.digest);
  const digestName = formatDigest(ref, digest);
  // Looked up again: it may have been removed meanwhile.
  const image = store.find(formatReference(ref));
  return image?.repoDigests.includes(digestName) ? image : undefined;
}

/** Returns the digest. A registry that is down or lacks it changes nothing; one that denies access does: another pull may have had credentials. */
async function stillAllowed(session: RegistrySession, digest: string): Promise<string> {
  await session.resolve(digest).catch((error: unknown) => {
    const isHarmless = error instanceof BerthError && ['NOT_FOUND', 'UNAVAILABLE', 'FAILED_PRECONDITION'].includes(error.code);
    if (!isHarmless) throw error;
  });
  return digest;
}

/** Returns the image unless layers of it have been deleted. */
async function ifComplete(store: ImageStore, image: ImageRecord | undefined): Promise<ImageRecord | undefined> {
  if (image === undefined) return undefined;
  await store.layers.forgetDeleted(image.diffIds);
  return image.diffIds.every((diffId) => store.layers.facts(diffId) !== undefined) ? image : undefined;
}

async function fetchImage(deps: PullDeps, session: RegistrySession, run: Run): Promise<ObtainedImage> {
  const { ref, account, signal } = run;
  const trace = deps.trace ?? untraced;
  const image = await trace('pull.resolve', async () => {
    const top = await session.fetchManifest(ref.digest ?? ref.tag ?? 'latest');
    return resolveImage(session, top, deps.platform, `image ${formatReference(ref)}`);
  });
  const { policy } = deps;
  const signatures = policy ? await trace('pull.verify', () => policy.verify(session, ref, image.digests)) : [];
  const names = { tag: formatTag(ref), digest: formatDigest(ref, image.digests[0] ?? ''), signatures };
  return obtainImage(deps, { image, source: session, names, account, signal });
}
