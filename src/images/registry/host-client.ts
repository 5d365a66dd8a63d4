/**
 * Sends requests for one repository to one host: URL and headers, authorization, and the meaning of error responses.
 *
 * Repeats a request only after a 401 whose challenge the authorizer answered, at most twice. registry.ts decides about other retries and other hosts.
 */
import type { IncomingMessage } from 'node:http';
import { isDigest, type Reference } from '../document/reference.ts';
import { createAuthorizer } from './authorizer.ts';
import { readExplanation } from './body.ts';
import { type Credentials, parseChallenges, unansweredText } from './challenges.ts';
import { needsNamespace, type RegistryHost } from './hosts.ts';
import { explanationOf, failureOfError, failureOfStatus, HostFailure } from './registry-error.ts';
import type { Transport } from './transport.ts';

export type HostRequest = {
  readonly method: 'GET' | 'HEAD';
  /** Path below the repository, such as `manifests/latest`. */
  readonly resource: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The expected statuses; others are failures. */
  readonly statuses: readonly number[];
};

export type HostClient = {
  readonly host: RegistryHost;
  /** `https://mirror.example:5000`, for messages. */
  readonly origin: string;
  readonly hasCredentials: boolean;
  /** @throws {HostFailure} and no other error. */
  request(request: HostRequest): Promise<IncomingMessage>;
};

export type HostClientDeps = {
  readonly transport: Transport;
  readonly stallTimeoutMs: number;
  readonly signal: AbortSignal;
};

/** Challenges answered for one request: the first one, and one for an expired token. */
const challengesMax = 2;

export function createHostClient(deps: HostClientDeps, host: RegistryHost, ref: Reference, credentials: Credentials): HostClient {
  const authorizer = createAuthorizer(deps, host, credentials, `repository:${ref.path}:pull`);

  async function send(request: HostRequest): Promise<IncomingMessage> {
    for (let challenges = 0; ; challenges += 1) {
      const authorization = await authorizer.authorization();
      const { message, url } = await deps.transport.send({
        url: toUrl(host, ref, request.resource),
        method: request.method,
        headers: request.headers,
        ownHeaders: { ...host.headers, ...(authorization === undefined ? {} : { authorization }) },
        tls: host.tls,
        isVerified: isDigest(request.resource.slice(request.resource.lastIndexOf('/') + 1)),
      });
      if (request.statuses.includes(message.statusCode ?? 0)) return message;
      // After a redirect to other storage, a 401 is not a challenge of the registry.
      const isChallenge = message.statusCode === 401 && url.host === host.host;
      const failure = await failureOf(message, url);
      if (!isChallenge) throw failure;
      const challenge = message.headers['www-authenticate'] ?? '';
      const reason =
        challenges < challengesMax
          ? await authorizer.answerChallenge(challenge, authorization)
          : unansweredText(parseChallenges(challenge), host, true);
      if (reason !== undefined) throw new HostFailure(failure.kind, `${failure.message}: ${reason}`, { status: failure.status });
    }
  }

  async function failureOf(message: IncomingMessage, url: URL): Promise<HostFailure> {
    const body = await readExplanation(message, deps.stallTimeoutMs, deps.signal);
    const secrets = [...authorizer.secrets(), ...Object.values(host.headers).flat()].filter((secret) => secret !== '');
    const failure = failureOfStatus(message.statusCode ?? 0, message.headers['retry-after'], explanationOf(body, secrets), Date.now());
    if (url.host === host.host) return failure;
    // A refusal of the storage means an expired or used URL, not wrong credentials: a retry gets a redirect to a new one.
    const isRefusal = failure.kind === 'unauthorized' || failure.kind === 'wrong';
    const { retryAfterMs, status } = failure;
    return new HostFailure(isRefusal ? 'busy' : failure.kind, `redirected to ${url.origin}: ${failure.message}`, { retryAfterMs, status });
  }

  return {
    host,
    origin: `${host.scheme}://${host.host}`,
    hasCredentials: credentials.kind !== 'anonymous',
    request: (request) =>
      send(request).catch((error: unknown) => {
        throw failureOfError(error);
      }),
  };
}

function toUrl(host: RegistryHost, ref: Reference, resource: string): URL {
  const url = new URL(`${host.scheme}://${host.host}${host.basePath}/${ref.path}/${resource}`);
  if (needsNamespace(host, ref.domain)) url.searchParams.set('ns', ref.domain);
  return url;
}
