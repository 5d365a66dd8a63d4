/**
 * Registry client: fetches manifests and blobs by the OCI distribution protocol, from configured mirrors first.
 *
 * Stores nothing on disk, and knows nothing about layers or stores. No error or log line contains a token or a password.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { type Descriptor, isManifestType, manifestAccept, manifestBytesMax, orRefusal, toMediaType } from '../document/manifest.ts';
import { formatReference, isDigest, type Reference } from '../document/reference.ts';
import { oneLine, parseFields } from '../document/untrusted-json.ts';
import { type Break, streamBlob } from './blob.ts';
import { readBody } from './body.ts';
import { type Credentials, credentialsFrom, isAddressOf, type RegistryAuth } from './challenges.ts';
import { createHostClient, type HostClient } from './host-client.ts';
import type { RegistryHost } from './hosts.ts';
import { loadRegistryHosts, readAuthFile } from './hosts-directory.ts';
import type { ProxySettings } from './proxy.ts';
import { type Attempt, errorOfAttempts, failureOfError, HostFailure, retryDelayMs } from './registry-error.ts';
import { createTransport, discard, type Transport } from './transport.ts';

/** The signature of pino's methods. */
export type RegistryLog = { warn(fields: object, message: string): void; debug(fields: object, message: string): void };

export type RegistryDeps = {
  /** Contains a directory with hosts.toml for each registry; need not exist. */
  readonly registryDir: string;
  readonly userAgent: string;
  readonly log?: RegistryLog;
  /** The values of the proxy environment variables. */
  readonly proxy?: ProxySettings;
  /** Replaces the built-in times, for tests. */
  readonly timing?: Partial<RegistryTiming>;
};

export type RegistryTiming = {
  /** From the request to the header of the response, including connection and TLS handshake. */
  readonly responseTimeoutMs: number;
  /** Of each wait for the next bytes of a body. */
  readonly stallTimeoutMs: number;
  /** The wait before the first retry; doubles with each further one. */
  readonly backoffMs: number;
  readonly backoffMsMax: number;
};

export type FetchedManifest = {
  readonly bytes: Buffer;
  readonly mediaType: string;
  /** Of `bytes`; equal to the requested digest, if any. */
  readonly digest: string;
};

/** The requests of one pull to the registry of an image and its mirrors. Close it at the end of the pull. */
export type RegistrySession = {
  /**
   * Resolves a tag with a HEAD request, which does not count against pull rate limits, or asks once whether a host has a digest. A host that does
   * not answer HEAD as it should is asked for the manifest.
   */
  resolve(tagOrDigest: string): Promise<{ readonly digest: string; readonly mediaType: string }>;
  /** Fetches a manifest of up to 8 MiB, and computes and checks its digest. @param tagOrDigest of this repository. */
  fetchManifest(tagOrDigest: string): Promise<FetchedManifest>;
  /**
   * Streams a blob from `offset` (default 0) to its end. The stream resumes after a broken connection, and fails unless exactly
   * `descriptor.sizeBytes - offset` bytes arrive. The caller checks the digest.
   */
  openBlob(descriptor: Descriptor, options?: { readonly offset?: number }): Promise<{ readonly stream: Readable; readonly offset: number }>;
  /** Fetches a complete blob of at most `bytesMax`, and checks size, if it is known, and digest. */
  fetchSmallBlob(descriptor: Descriptor, bytesMax: number): Promise<Buffer>;
  /**
   * Stops using mirrors, for a caller that received corrupt data from one.
   *
   * @returns true if mirrors were in use, so that a retry makes sense.
   */
  avoidMirrors(): boolean;
  /** Closes its connections. Open streams fail. Idempotent. */
  close(): void;
};

export type RegistryClient = {
  /**
   * Reads the node's configuration of the image's registry. Contacts no host.
   *
   * @param signal cancels all requests of the session; its reason decides between CANCELLED and DEADLINE_EXCEEDED.
   * @param watcher observes the requests.
   * @throws {BerthError} INVALID_ARGUMENT for malformed credentials, FAILED_PRECONDITION for an invalid hosts.toml.
   */
  openSession(ref: Reference, auth: RegistryAuth | undefined, signal: AbortSignal, watcher?: SessionWatcher): Promise<RegistrySession>;
};

export type SessionWatcher = {
  /** Called after a successful request. @param host that answered. */
  readonly answered: (host: string) => void;
  /** Called when a request is repeated at the same or at another host, or resumed after a broken connection. */
  readonly retried: () => void;
};

const defaultTiming: RegistryTiming = { responseTimeoutMs: 30_000, stallTimeoutMs: 60_000, backoffMs: 500, backoffMsMax: 10_000 };
/** Attempts at the last host. Hosts before it get fewer, because another host follows. */
const attemptsMax = 5;
const attemptsBeforeNextHostMax = 2;

export function createRegistryClient(deps: RegistryDeps): RegistryClient {
  const timing = { ...defaultTiming, ...deps.timing };

  const openSession: RegistryClient['openSession'] = async (ref, auth, signal, watcher) => {
    const hosts = await loadRegistryHosts(deps.registryDir, ref.domain);
    const transport = createTransport({ userAgent: deps.userAgent, proxy: deps.proxy ?? {}, responseTimeoutMs: timing.responseTimeoutMs, signal });
    const hostDeps = { transport, stallTimeoutMs: timing.stallTimeoutMs, signal };
    const given = await Promise.all(hosts.map((host) => credentialsFor(auth, host, ref)));
    const clients = hosts.map((host, position) => createHostClient(hostDeps, host, ref, given[position] ?? { kind: 'anonymous' }));
    return createSession({ log: deps.log, timing, signal, transport, clients, subject: `image ${formatReference(ref)}`, watcher });
  };

  return { openSession };
}

/**
 * Returns the credentials for a host: of the pull request, else of the operator. A mirror gets only credentials of the request with its server
 * address; credentials without an address are for the registry itself.
 */
async function credentialsFor(auth: RegistryAuth | undefined, host: RegistryHost, ref: Reference): Promise<Credentials> {
  const isForHost = auth !== undefined && (!host.isMirror || (auth.serverAddress !== '' && isAddressOf(auth.serverAddress, host.host)));
  const requested = credentialsFrom(isForHost ? auth : undefined, host.isMirror ? host.host : ref.domain);
  if (requested.kind !== 'anonymous' || host.authFile === undefined) return requested;
  const own = await readAuthFile(host.authFile, host.host);
  return credentialsFrom(own, host.host);
}

type SessionDeps = {
  readonly log: RegistryLog | undefined;
  readonly timing: RegistryTiming;
  readonly signal: AbortSignal;
  readonly transport: Transport;
  readonly clients: readonly HostClient[];
  /** For messages. */
  readonly subject: string;
  readonly watcher: SessionWatcher | undefined;
};

function createSession(deps: SessionDeps): RegistrySession {
  const { ask, avoidMirrors, leave } = createRequester(deps);
  const capabilityFor = (tagOrDigest: string) => (isDigest(tagOrDigest) ? 'pull' : 'resolve');
  return {
    resolve: (tagOrDigest) =>
      ask(
        deps.subject,
        capabilityFor(tagOrDigest),
        async (client) => (await headManifest(client, tagOrDigest)) ?? getManifest(deps, client, tagOrDigest),
        {
          attemptsMax: isDigest(tagOrDigest) ? 1 : attemptsMax,
        },
      ),
    fetchManifest: (tagOrDigest) => {
      const subject = deps.subject.endsWith(tagOrDigest) ? deps.subject : `${deps.subject}, manifest ${tagOrDigest}`;
      return ask(subject, capabilityFor(tagOrDigest), (client) => getManifest(deps, client, tagOrDigest));
    },
    fetchSmallBlob: async (descriptor, bytesMax) => {
      const subject = `${deps.subject}, blob ${descriptor.digest}`;
      if (descriptor.sizeBytes > bytesMax)
        throw failedPrecondition(`${subject}: size of ${descriptor.sizeBytes} bytes exceeds the limit of ${bytesMax}`);
      return ask(subject, 'pull', (client) => getSmallBlob(deps, client, descriptor, bytesMax));
    },
    openBlob: (descriptor, options) => {
      const subject = `${deps.subject}, blob ${descriptor.digest}`;
      const open = (offset: number) =>
        ask(subject, 'pull', async (client) => ({
          message: await getBlob(client, descriptor, offset),
          host: client.origin,
          leave: () => leave(client),
        }));
      const onBreak = ({ failure, delayMs, ...where }: Break) => {
        deps.watcher?.retried();
        deps.log?.warn({ subject, ...where, reason: failure.message, delayMs: Math.round(delayMs) }, 'download interrupted, resuming');
      };
      return streamBlob(
        { open, timing: deps.timing, signal: deps.signal, subject, throwIfAborted: () => throwIfAborted(deps.signal, subject), onBreak },
        descriptor,
        options?.offset ?? 0,
      );
    },
    avoidMirrors,
    close: () => deps.transport.close(),
  };
}

type Ask = <T>(
  subject: string,
  capability: 'pull' | 'resolve',
  act: (client: HostClient) => Promise<T>,
  options?: { readonly attemptsMax: number },
) => Promise<T>;

type Requester = {
  ask: Ask;
  avoidMirrors(): boolean;
  /** Tries a host last from now on. @returns false when no host is left that has not failed. */
  leave(client: HostClient): boolean;
};

/** Tries one host after the other until one succeeds. From then on, a host that was unreachable or busy is tried last. */
function createRequester(deps: SessionDeps): Requester {
  /** The last failure last. */
  const failing = new Set<HostClient>();
  let clients = deps.clients;

  const ask: Ask = async (subject, capability, act, options) => {
    const capable = clients.filter((client) => client.host.capabilities[capability]);
    const ordered = [...capable.filter((client) => !failing.has(client)), ...[...failing].filter((client) => capable.includes(client))];
    const attempts: Attempt[] = [];
    for (const [position, client] of ordered.entries()) {
      try {
        const isLast = position === ordered.length - 1;
        const answer = await tryHost(deps, { client, subject, isLast, attemptsMax: options?.attemptsMax ?? attemptsMax }, act);
        deps.watcher?.answered(client.host.host);
        return answer;
      } catch (error) {
        throwIfAborted(deps.signal, subject);
        const failure = failureOfError(error);
        attempts.push({ host: client.origin, isMirror: client.host.isMirror, hasCredentials: client.hasCredentials, failure });
        if (position < ordered.length - 1) deps.watcher?.retried();
        if (failure.kind === 'unreachable' || failure.kind === 'busy') setLast(client);
        // The failure of the last host is in the returned error; a mirror without the image is normal.
        const level = position === ordered.length - 1 || failure.kind === 'missing' ? 'debug' : 'warn';
        deps.log?.[level]({ subject, host: client.origin, kind: failure.kind, reason: failure.message }, 'registry host failed');
      }
    }
    const notAsked = clients.filter((client) => !capable.includes(client)).map(({ origin }) => origin);
    throw errorOfAttempts(subject, attempts, { capability, notAsked });
  };

  function setLast(client: HostClient): void {
    failing.delete(client);
    failing.add(client);
  }

  function leave(client: HostClient): boolean {
    setLast(client);
    return clients.some((other) => other.host.capabilities.pull && !failing.has(other));
  }

  function avoidMirrors(): boolean {
    const hadMirrors = clients.some((client) => client.host.isMirror);
    clients = clients.filter((client) => !client.host.isMirror);
    return hadMirrors;
  }

  return { ask, avoidMirrors, leave };
}

type HostRequests = { readonly client: HostClient; readonly subject: string; readonly isLast: boolean; readonly attemptsMax: number };

/** Sends a request to one host, with retries. */
async function tryHost<T>(
  deps: SessionDeps,
  { client, subject, isLast, attemptsMax: allowed }: HostRequests,
  act: (client: HostClient) => Promise<T>,
): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await act(client);
    } catch (error) {
      const failure = failureOfError(error);
      const delayMs = retryDelayMs(failure, attempt, deps.timing, Math.random());
      if (delayMs === undefined || attempt + 1 >= (isLast ? allowed : Math.min(allowed, attemptsBeforeNextHostMax))) throw failure;
      // Unreachable or asks to retry later: use the next host instead of waiting.
      if (!isLast && (failure.kind === 'unreachable' || failure.retryAfterMs !== undefined)) throw failure;
      const { kind, message: reason } = failure;
      deps.log?.warn({ subject, host: client.origin, attempt, kind, reason, delayMs: Math.round(delayMs) }, 'retrying registry host');
      await sleep(delayMs, undefined, { signal: deps.signal });
      deps.watcher?.retried();
    }
  }
}

/** @throws {BerthError} when the signal is aborted: its reason if that is a BerthError, else CANCELLED or DEADLINE_EXCEEDED. */
function throwIfAborted(signal: AbortSignal, subject: string): void {
  if (!signal.aborted) return;
  const reason: unknown = signal.reason;
  if (reason instanceof BerthError) throw reason;
  const isTimeout = reason instanceof Error && reason.name === 'TimeoutError';
  throw new BerthError(
    isTimeout ? 'DEADLINE_EXCEEDED' : 'CANCELLED',
    `pull ${subject}: ${isTimeout ? 'deadline exceeded' : `canceled: ${reasonOf(reason)}`}`,
  );
}

/** @returns undefined when the host does not answer HEAD as it should. */
async function headManifest(client: HostClient, tagOrDigest: string): Promise<{ digest: string; mediaType: string } | undefined> {
  const request = { method: 'HEAD', resource: `manifests/${tagOrDigest}`, headers: { accept: manifestAccept }, statuses: [200] } as const;
  const message = await client.request(request).catch((error: unknown) => {
    const failure = failureOfError(error);
    const isUnsupported = failure.kind === 'wrong' || (failure.status ?? 0) >= 500;
    if (isUnsupported) return undefined;
    throw failure;
  });
  if (message === undefined) return undefined;
  discard(message);
  const digest = headerText(message.headers['docker-content-digest']);
  const mediaType = toMediaType(message.headers['content-type'], Buffer.alloc(0));
  const isExpected = isDigest(tagOrDigest) ? digest === tagOrDigest : isDigest(digest);
  return isExpected && isManifestType(mediaType) ? { digest, mediaType } : undefined;
}

async function getManifest(deps: SessionDeps, client: HostClient, tagOrDigest: string): Promise<FetchedManifest> {
  const message = await client.request({ method: 'GET', resource: `manifests/${tagOrDigest}`, headers: { accept: manifestAccept }, statuses: [200] });
  const bytes = await readBody(message, manifestBytesMax, deps.timing.stallTimeoutMs, deps.signal);
  const claimed = headerText(message.headers['docker-content-digest']);
  // By tag, the only check is that the registry's header matches the body.
  const expected = isDigest(tagOrDigest) ? tagOrDigest : isDigest(claimed) ? claimed : undefined;
  const digest = digestOf(bytes, expected?.split(':', 1)[0] ?? 'sha256');
  if (expected !== undefined && digest !== expected) throw new HostFailure('wrong', `manifest with digest ${digest} instead of ${expected}`);
  const mediaType = toMediaType(message.headers['content-type'], bytes);
  // Such as the page of a proxy. parseManifest() reports all that is wrong with a manifest.
  const refusal = orRefusal(() => parseFields(bytes, 'manifest', []));
  if (refusal instanceof BerthError)
    throw new HostFailure('wrong', `${refusal.message} (${bytes.length} bytes of type ${oneLine(mediaType, 80) || 'unknown'})`);
  return { bytes, mediaType, digest };
}

async function getSmallBlob(deps: SessionDeps, client: HostClient, descriptor: Descriptor, bytesMax: number): Promise<Buffer> {
  const message = await getBlob(client, descriptor, 0);
  const bytes = await readBody(message, descriptor.sizeBytes || bytesMax, deps.timing.stallTimeoutMs, deps.signal);
  if (descriptor.sizeBytes !== 0 && bytes.length !== descriptor.sizeBytes)
    throw new HostFailure('wrong', `${bytes.length} bytes instead of ${descriptor.sizeBytes}`);
  const digest = digestOf(bytes, descriptor.digest.split(':', 1)[0] ?? '');
  if (digest !== descriptor.digest) throw new HostFailure('wrong', `content with digest ${digest}`);
  return bytes;
}

/**
 * Returns the response for a blob from `offset` on, or from 0 (status 200) if the host does not support ranges, or not as it should. Checks its
 * length.
 */
async function getBlob(client: HostClient, descriptor: Descriptor, offset: number): Promise<IncomingMessage> {
  const resource = `blobs/${descriptor.digest}`;
  if (offset === 0) return checkedBlob(await client.request({ method: 'GET', resource, headers: {}, statuses: [200, 206] }), descriptor, 0);
  try {
    const headers = { range: `bytes=${offset}-` };
    return checkedBlob(await client.request({ method: 'GET', resource, headers, statuses: [200, 206] }), descriptor, offset);
  } catch (error) {
    const failure = failureOfError(error);
    if (failure.kind !== 'wrong' && !rangeRefusals.includes(failure.status ?? 0)) throw failure;
    return checkedBlob(await client.request({ method: 'GET', resource, headers: {}, statuses: [200] }), descriptor, 0);
  }
}

/** Responses to a range, also of storage to which the registry redirects. */
const rangeRefusals: readonly number[] = [400, 416, 501];

function checkedBlob(message: IncomingMessage, { sizeBytes }: Descriptor, offset: number): IncomingMessage {
  const reason = reasonAgainst(message, sizeBytes, offset);
  if (reason === undefined) return message;
  message.on('error', () => undefined).destroy();
  throw new HostFailure('wrong', reason);
}

/** Returns why the response is invalid; undefined when it is valid. */
function reasonAgainst(message: IncomingMessage, sizeBytes: number, offset: number): string | undefined {
  const encoding = message.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') return `unexpected Content-Encoding ${oneLine(encoding, 40)}`;
  const isPart = message.statusCode === 206;
  const expectedBytes = isPart ? sizeBytes - offset : sizeBytes;
  const length = message.headers['content-length'];
  // The size of a config may be unknown.
  if (sizeBytes !== 0 && length !== undefined && Number(length) !== expectedBytes)
    return `Content-Length of ${Number(length)} bytes instead of ${expectedBytes}`;
  const range = /^bytes ([0-9]+)-[0-9]+\/([0-9]+|\*)$/.exec(message.headers['content-range'] ?? '');
  return isPart && Number(range?.[1]) !== offset ? 'response has another range than requested' : undefined;
}

function digestOf(bytes: Buffer, algorithm: string): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
}

function headerText(value: string | string[] | undefined): string {
  return typeof value === 'string' ? value : '';
}
