/**
 * Talks to registries: manifests and blobs by the OCI distribution protocol, from mirrors first where the node has them.
 *
 * Never keeps anything on disk, and knows nothing of layers or stores. No token or password leaves in an error or a log line.
 */
import type { Readable } from 'node:stream';
import type { RegistryAuth } from './auth.ts';
import type { Descriptor } from './manifest.ts';
import type { Reference } from './reference.ts';

/** A log that takes fields and a message, as pino's. */
export type RegistryLog = { warn(fields: object, message: string): void; debug(fields: object, message: string): void };

export type RegistryDeps = {
  /** Holds a directory per registry, with hosts.toml; need not exist. */
  readonly registryDir: string;
  readonly userAgent: string;
  readonly log?: RegistryLog;
  /** URLs as in the environment variables of these names; '' or absent for none. */
  readonly proxy?: { readonly httpProxy?: string; readonly httpsProxy?: string; readonly noProxy?: string };
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
  /** Ends its connections. Streams still open fail. Idempotent. */
  close(): void;
};

export type RegistryClient = {
  /**
   * Reads the node's configuration for the image's registry; contacts nobody yet.
   *
   * @param signal ends everything of this session; its reason decides between CANCELLED and DEADLINE_EXCEEDED.
   * @throws {BerthError} INVALID_ARGUMENT for malformed credentials, FAILED_PRECONDITION for a hosts.toml that cannot be used.
   */
  openSession(ref: Reference, auth: RegistryAuth | undefined, signal: AbortSignal): Promise<RegistrySession>;
};

export function createRegistryClient(deps: RegistryDeps): RegistryClient {
  throw new Error(`not written yet: ${deps.registryDir}`);
}
