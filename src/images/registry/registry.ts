/**
 * Talks to registries: manifests and blobs by the OCI distribution protocol, from mirrors first where the node has them.
 *
 * Never keeps anything on disk, and knows nothing of layers or stores. No token or password leaves in an error or a log line.
 */
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { type Descriptor, isManifestType, manifestAccept, manifestBytesMax, toMediaType } from '../document/manifest.ts';
import { formatReference, isDigest, type Reference } from '../document/reference.ts';
import { credentialsFrom, isAddressOf, type RegistryAuth } from './auth.ts';
import { type Break, streamBlob } from './blob.ts';
import { readBody } from './body.ts';
import { createHostClient, type HostClient } from './host-client.ts';
import type { RegistryHost } from './hosts.ts';
import { loadRegistryHosts } from './hosts-directory.ts';
import type { ProxySettings } from './proxy.ts';
import { type Attempt, errorOfAttempts, failureOfError, HostFailure, retryDelayMs } from './registry-error.ts';
import { createTransport, discard, type Transport } from './transport.ts';

/** A log that takes fields and a message, as pino's. */
export type RegistryLog = { warn(fields: object, message: string): void; debug(fields: object, message: string): void };

export type RegistryDeps = {
  /** Holds a directory per registry, with hosts.toml; need not exist. */
  readonly registryDir: string;
  readonly userAgent: string;
  readonly log?: RegistryLog;
  /** URLs as in the environment variables of these names; '' or absent for none. */
  readonly proxy?: ProxySettings;
  /** Changes the built-in times, for tests. */
  readonly timing?: Partial<RegistryTiming>;
};

export type RegistryTiming = {
  /** From the request to the response's header, connection and TLS included. */
  readonly responseTimeoutMs: number;
  /** Without one byte of a body while one is awaited. */
  readonly stallTimeoutMs: number;
  /** Wait before the first retry; doubles with every further one. */
  readonly backoffMs: number;
  readonly backoffMsMax: number;
};

export type FetchedManifest = {
  readonly bytes: Buffer;
  readonly mediaType: string;
  /** Of `bytes`; equal to the digest asked for, if one was. */
  readonly digest: string;
};

/** One pull's conversation with the registries of one image; close it when the pull is over. */
export type RegistrySession = {
  /**
   * What a tag points at, by HEAD: free of the rate limit of pulls. Undefined when the registry does not tell; then fetch.
   */
  resolveTag(tag: string): Promise<{ readonly digest: string; readonly mediaType: string } | undefined>;
  /** @param tagOrDigest of this repository; up to 8 MiB, its digest computed and checked. */
  fetchManifest(tagOrDigest: string): Promise<FetchedManifest>;
  /**
   * The bytes of a blob from `offset` (default 0) to its end. The stream goes on by itself after a broken connection, and
   * fails unless exactly `descriptor.sizeBytes - offset` bytes arrived. The caller checks the digest.
   */
  openBlob(descriptor: Descriptor, options?: { readonly offset?: number }): Promise<{ readonly stream: Readable; readonly offset: number }>;
  /** A whole blob of at most `bytesMax`, size and digest checked. */
  fetchSmallBlob(descriptor: Descriptor, bytesMax: number): Promise<Buffer>;
  /**
   * From now on only the registry itself is asked: for a caller that found a mirror's bytes to be wrong.
   *
   * @returns whether that changes anything, and another attempt makes sense.
   */
  avoidMirrors(): boolean;
  /** Ends its connections. Streams still open fail. Idempotent. */
  close(): void;
};

export type RegistryClient = {
  /**
   * Reads the node's configuration for the image's registry; contacts nobody yet.
   *
   * @param signal ends everything of this session; its reason decides between CANCELLED and DEADLINE_EXCEEDED.
   * @param watcher told of what becomes of its requests.
   * @throws {BerthError} INVALID_ARGUMENT for malformed credentials, FAILED_PRECONDITION for a hosts.toml that cannot be used.
   */
  openSession(ref: Reference, auth: RegistryAuth | undefined, signal: AbortSignal, watcher?: SessionWatcher): Promise<RegistrySession>;
};

export type SessionWatcher = {
  /** @param host that gave what it was asked for. */
  readonly answered: (host: string) => void;
  /** Something was asked for again: of the same host, of another, or the rest after a broken connection. */
  readonly retried: () => void;
};

const defaultTiming: RegistryTiming = { responseTimeoutMs: 30_000, stallTimeoutMs: 60_000, backoffMs: 500, backoffMsMax: 10_000 };
/** Requests of one thing to the last host; those before it have successors, and get fewer. */
const attemptsMax = 5;
const attemptsBeforeNextHostMax = 2;

export function createRegistryClient(deps: RegistryDeps): RegistryClient {
  const timing = { ...defaultTiming, ...deps.timing };

  const openSession: RegistryClient['openSession'] = async (ref, auth, signal, watcher) => {
    const hosts = await loadRegistryHosts(deps.registryDir, ref.domain);
    const transport = createTransport({ userAgent: deps.userAgent, proxy: deps.proxy ?? {}, responseTimeoutMs: timing.responseTimeoutMs, signal });
    const hostDeps = { transport, stallTimeoutMs: timing.stallTimeoutMs, signal };
    const clients = hosts.map((host) => createHostClient(hostDeps, host, ref, credentialsFrom(authFor(auth, host, ref), ref.domain)));
    return createSession({ log: deps.log, timing, signal, transport, clients, subject: `image ${formatReference(ref)}`, watcher });
  };

  return { openSession };
}

/** A mirror gets only credentials that name it; those that name nobody are for the registry itself. */
function authFor(auth: RegistryAuth | undefined, host: RegistryHost, ref: Reference): RegistryAuth | undefined {
  if (auth === undefined || !host.isMirror) return auth;
  return auth.serverAddress !== '' && isAddressOf(auth.serverAddress, host.host) ? { ...auth, serverAddress: ref.domain } : undefined;
}

type SessionDeps = {
  readonly log: RegistryLog | undefined;
  readonly timing: RegistryTiming;
  readonly signal: AbortSignal;
  readonly transport: Transport;
  readonly clients: readonly HostClient[];
  /** What the pull is about, for messages. */
  readonly subject: string;
  readonly watcher: SessionWatcher | undefined;
};

function createSession(deps: SessionDeps): RegistrySession {
  const { ask, avoidMirrors } = createAsker(deps);
  return {
    resolveTag: (tag) => ask(deps.subject, 'resolve', (client) => headManifest(client, tag)),
    fetchManifest: (tagOrDigest) => {
      const subject = deps.subject.endsWith(tagOrDigest) ? deps.subject : `${deps.subject}, manifest ${tagOrDigest}`;
      return ask(subject, isDigest(tagOrDigest) ? 'pull' : 'resolve', (client) => getManifest(deps, client, tagOrDigest));
    },
    fetchSmallBlob: async (descriptor, bytesMax) => {
      const subject = `${deps.subject}, blob ${descriptor.digest}`;
      if (descriptor.sizeBytes > bytesMax)
        throw failedPrecondition(`${subject}: ${descriptor.sizeBytes} bytes, more than the ${bytesMax} that are allowed`);
      return ask(subject, 'pull', (client) => getSmallBlob(deps, client, descriptor));
    },
    openBlob: (descriptor, options) => {
      const subject = `${deps.subject}, blob ${descriptor.digest}`;
      const open = (offset: number) =>
        ask(subject, 'pull', async (client) => ({ message: await getBlob(client, descriptor, offset), host: client.origin }));
      const onBreak = ({ failure, delayMs, ...where }: Break) => {
        deps.watcher?.retried();
        deps.log?.warn({ subject, ...where, reason: failure.message, delayMs: Math.round(delayMs) }, 'a download broke, and goes on where it was');
      };
      return streamBlob(
        { open, timing: deps.timing, signal: deps.signal, subject, throwIfOver: () => throwIfOver(deps.signal, subject), onBreak },
        descriptor,
        options?.offset ?? 0,
      );
    },
    avoidMirrors,
    close: () => deps.transport.close(),
  };
}

type Asker = {
  ask<T>(subject: string, capability: 'pull' | 'resolve', act: (client: HostClient) => Promise<T>): Promise<T>;
  avoidMirrors(): boolean;
};

/** Asks one host after the other until one has it. A host that could not be reached or was busy is asked last from then on. */
function createAsker(deps: SessionDeps): Asker {
  const failing = new Set<HostClient>();
  let clients = deps.clients;

  async function ask<T>(subject: string, capability: 'pull' | 'resolve', act: (client: HostClient) => Promise<T>): Promise<T> {
    const able = clients.filter((client) => client.host.capabilities[capability]);
    const ordered = [...able.filter((client) => !failing.has(client)), ...able.filter((client) => failing.has(client))];
    const attempts: Attempt[] = [];
    for (const [position, client] of ordered.entries()) {
      try {
        const answer = await askPatiently(deps, { client, subject, isLast: position === ordered.length - 1 }, act);
        deps.watcher?.answered(client.host.host);
        return answer;
      } catch (error) {
        throwIfOver(deps.signal, subject);
        const failure = failureOfError(error);
        attempts.push({ host: client.origin, isMirror: client.host.isMirror, failure });
        if (position < ordered.length - 1) deps.watcher?.retried();
        if (failure.kind === 'unreachable' || failure.kind === 'busy') failing.add(client);
        // The last one's failure is the error's own; a mirror that lacks an image does what mirrors do.
        const level = position === ordered.length - 1 || failure.kind === 'missing' ? 'debug' : 'warn';
        deps.log?.[level]({ subject, host: client.origin, kind: failure.kind, reason: failure.message }, 'a registry host failed');
      }
    }
    throw errorOfAttempts(subject, attempts);
  }

  function avoidMirrors(): boolean {
    const hadMirrors = clients.some((client) => client.host.isMirror);
    clients = clients.filter((client) => !client.host.isMirror);
    return hadMirrors;
  }

  return { ask, avoidMirrors };
}

type Turn = { readonly client: HostClient; readonly subject: string; readonly isLast: boolean };

async function askPatiently<T>(deps: SessionDeps, { client, subject, isLast }: Turn, act: (client: HostClient) => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await act(client);
    } catch (error) {
      const failure = failureOfError(error);
      const delayMs = retryDelayMs(failure, attempt, deps.timing, Math.random());
      if (delayMs === undefined || attempt + 1 >= (isLast ? attemptsMax : attemptsBeforeNextHostMax)) throw failure;
      // Nothing listens there, or it asks for patience: with another host to ask, waiting would be lost time.
      if (!isLast && (failure.kind === 'unreachable' || failure.retryAfterMs !== undefined)) throw failure;
      const { kind, message: reason } = failure;
      deps.log?.warn({ subject, host: client.origin, attempt, kind, reason, delayMs: Math.round(delayMs) }, 'a registry host is asked again');
      await sleep(delayMs, undefined, { signal: deps.signal });
      deps.watcher?.retried();
    }
  }
}

/** @throws {BerthError} when the caller has given up: its own error if it gave one, else by the kind of signal. */
function throwIfOver(signal: AbortSignal, subject: string): void {
  if (!signal.aborted) return;
  const reason: unknown = signal.reason;
  if (reason instanceof BerthError) throw reason;
  const isLate = reason instanceof Error && reason.name === 'TimeoutError';
  throw new BerthError(
    isLate ? 'DEADLINE_EXCEEDED' : 'CANCELLED',
    `pulling ${subject}: ${isLate ? 'not done in time' : `given up: ${reasonOf(reason)}`}`,
  );
}

async function headManifest(client: HostClient, tag: string): Promise<{ digest: string; mediaType: string } | undefined> {
  const statuses = [200, 400, 405, 501];
  const message = await client.request({ method: 'HEAD', resource: `manifests/${tag}`, headers: { accept: manifestAccept }, statuses });
  discard(message);
  const digest = headerText(message.headers['docker-content-digest']);
  const mediaType = toMediaType(message.headers['content-type'], Buffer.alloc(0));
  return message.statusCode === 200 && isDigest(digest) && isManifestType(mediaType) ? { digest, mediaType } : undefined;
}

async function getManifest(deps: SessionDeps, client: HostClient, tagOrDigest: string): Promise<FetchedManifest> {
  const message = await client.request({ method: 'GET', resource: `manifests/${tagOrDigest}`, headers: { accept: manifestAccept }, statuses: [200] });
  const bytes = await readBody(message, manifestBytesMax, deps.timing.stallTimeoutMs, deps.signal);
  const claimed = headerText(message.headers['docker-content-digest']);
  // By tag the registry's word is all there is; it must at least agree with what it sent.
  const expected = isDigest(tagOrDigest) ? tagOrDigest : isDigest(claimed) ? claimed : undefined;
  const digest = digestOf(bytes, expected?.split(':', 1)[0] ?? 'sha256');
  if (expected !== undefined && digest !== expected) throw new HostFailure('wrong', `sends a manifest of digest ${digest} instead of ${expected}`);
  return { bytes, mediaType: toMediaType(message.headers['content-type'], bytes), digest };
}

async function getSmallBlob(deps: SessionDeps, client: HostClient, descriptor: Descriptor): Promise<Buffer> {
  const message = await getBlob(client, descriptor, 0);
  const bytes = await readBody(message, descriptor.sizeBytes, deps.timing.stallTimeoutMs, deps.signal);
  if (bytes.length !== descriptor.sizeBytes) throw new HostFailure('wrong', `sends ${bytes.length} bytes instead of ${descriptor.sizeBytes}`);
  const digest = digestOf(bytes, descriptor.digest.split(':', 1)[0] ?? '');
  if (digest !== descriptor.digest) throw new HostFailure('wrong', `sends bytes of digest ${digest}`);
  return bytes;
}

/** The response for a blob from `offset` on, or from 0 (status 200) where the host knows no ranges. Its length is checked. */
async function getBlob(client: HostClient, descriptor: Descriptor, offset: number): Promise<IncomingMessage> {
  const range: Record<string, string> = offset === 0 ? {} : { range: `bytes=${offset}-` };
  const message = await client.request({
    method: 'GET',
    resource: `blobs/${descriptor.digest}`,
    headers: range,
    statuses: offset === 0 ? [200] : [200, 206],
  });
  const reason = reasonAgainst(message, descriptor.sizeBytes, offset);
  if (reason === undefined) return message;
  message.on('error', () => undefined).destroy();
  throw new HostFailure('wrong', reason);
}

function reasonAgainst(message: IncomingMessage, sizeBytes: number, offset: number): string | undefined {
  const encoding = message.headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') return 'sends the blob encoded again, though asked not to';
  const isPart = message.statusCode === 206;
  const expectedBytes = isPart ? sizeBytes - offset : sizeBytes;
  const length = message.headers['content-length'];
  if (length !== undefined && Number(length) !== expectedBytes) return `announces ${Number(length)} bytes instead of ${expectedBytes}`;
  const range = /^bytes ([0-9]+)-[0-9]+\/([0-9]+|\*)$/.exec(message.headers['content-range'] ?? '');
  return isPart && Number(range?.[1]) !== offset ? 'answers with another part of the blob than was asked for' : undefined;
}

function digestOf(bytes: Buffer, algorithm: string): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
}

function headerText(value: string | string[] | undefined): string {
  return typeof value === 'string' ? value : '';
}
