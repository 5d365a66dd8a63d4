/**
 * One pull, from a name to an image in the store: resolve, check, fetch the layers that are missing, publish. Equal pulls are joined.
 *
 * When it fails, layers that are whole stay for a while, for the next attempt; nothing else does. Knows no protocol of registries, and unpacks nothing itself.
 */
import { createHash } from 'node:crypto';
import { BerthError, codeOf, type ErrorCode, reasonOf } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { type Trace, untraced } from '../../lib/spans.ts';
import type { Platform } from '../document/platform.ts';
import { formatDigest, formatReference, formatTag, parseReference, type Reference } from '../document/reference.ts';
import { openTransfer, type Transfer, type TransferAccount } from '../document/transfer.ts';
import type { RegistryAuth } from '../registry/auth.ts';
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
  /** For metrics: told of each pull when it ends; of equal ones that were joined, once. */
  readonly observe?: (pull: PullOutcome) => void;
  /** Each step of a pull is a span, of the first caller where several joined. */
  readonly trace?: Trace;
};

/** `result`: `OK`, or the code of the failure. `bytes`: compressed ones of layers, as they came; `layers` of a pull that failed are 0. */
export type PullOutcome = {
  readonly result: ErrorCode | 'OK';
  readonly seconds: number;
  readonly bytes: number;
  readonly layers: number;
  readonly retries: number;
};

export type PullRequest = {
  /** As a user writes it. */
  readonly reference: string;
  readonly auth?: RegistryAuth | undefined;
  /** Ends the waiting of this caller; the pull goes on as long as anybody waits. Its reason tells late from cancelled. */
  readonly signal: AbortSignal;
  /** Gets what tells how the pull stands, also one that others began. */
  readonly onStart?: (progress: () => Transfer) => void;
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
  /** That are under way now. */
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
    // Nobody may be left to hear of it.
    result.catch(() => undefined);
    const pull: Running = { result, controller, progress: account.now, waiters: 0 };
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
    request.onStart?.(pull.progress);
    try {
      return await untilAborted(pull.result, request.signal, () => givenUp(request.signal, ref));
    } finally {
      pull.waiters -= 1;
      if (pull.waiters === 0 && request.signal.aborted) {
        // From here on a new request starts anew.
        if (running.get(key) === pull) running.delete(key);
        pull.controller.abort(givenUp(request.signal, ref));
      }
    }
  };

  return { pullImage, pulls: () => [...running.values()].map(({ progress }) => progress()) };
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
    const told = {
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
    deps.log?.info(told, 'image pulled');
    return image;
  } catch (error) {
    const { receivedBytes: bytes, retries } = run.account.now();
    deps.observe?.({ result: codeOf(error), seconds: (performance.now() - startedMs) / 1000, bytes, layers: 0, retries });
    throw run.signal.aborted ? givenUp(run.signal, run.ref) : error;
  }
}

async function runSession(deps: PullDeps, run: Run): Promise<ObtainedImage> {
  const session = await deps.registry.openSession(run.ref, run.auth, run.signal, run.account);
  try {
    const known = await (deps.trace ?? untraced)('pull.look', async () => wholeImage(deps.store, await knownImage(deps.store, session, run.ref)));
    // Its signatures may be newer than the image.
    const isAccepted = known !== undefined && deps.policy?.refusal([formatReference(run.ref)], known.signatures) === undefined;
    return isAccepted ? { image: known, layers: 0, times: [] } : await fetchImage(deps, session, run);
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
