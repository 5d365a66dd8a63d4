/**
 * Answers the authentication challenges of one registry host, with basic credentials or with a token from its token service.
 *
 * host-client.ts repeats the request. Tokens are kept until they expire, and never longer than one pull: credentials of one pod never serve another. Never logs or shows a credential.
 */

import { readBody, readExplanation } from './body.ts';
import {
  basicAuthorization,
  type Challenge,
  type Credentials,
  parseChallenges,
  parseTokenResponse,
  secretsOf,
  type TokenRequest,
  toTokenRequest,
  unansweredText,
} from './challenges.ts';
import type { RegistryHost } from './hosts.ts';
import { explanationOf, failureOfError, failureOfStatus, HostFailure } from './registry-error.ts';
import { discard, type HttpRequest, type Transport } from './transport.ts';

export type AuthorizerDeps = {
  readonly transport: Transport;
  readonly stallTimeoutMs: number;
  readonly signal: AbortSignal;
};

export type Authorizer = {
  /** Returns the Authorization header for the next request; undefined before the first challenge. Renews an expired token. */
  authorization(): Promise<string | undefined>;
  /**
   * Handles the challenge of a 401 response.
   *
   * @param used the header of the refused request.
   * @returns undefined if the request should be repeated with the new header; else the reason why not.
   */
  answerChallenge(wwwAuthenticate: string, used: string | undefined): Promise<string | undefined>;
  /** Returns the strings that must not appear in any message. */
  secrets(): readonly string[];
};

/** A token is renewed this long before it expires, so that it does not expire in transit. */
const tokenMarginMs = 5000;
const tokenResponseBytesMax = 256 << 10;
const clientId = 'berth';

type Granted = { readonly header: string; readonly expiresAtMs: number; readonly request?: TokenRequest };

export function createAuthorizer(deps: AuthorizerDeps, host: RegistryHost, credentials: Credentials, scope: string): Authorizer {
  let granted: Granted | undefined;
  /** Concurrent requests share one token request. */
  let running: Promise<void> | undefined;

  async function authorization(): Promise<string | undefined> {
    if (granted?.request !== undefined && Date.now() > granted.expiresAtMs - tokenMarginMs) await obtain(granted.request);
    return granted?.header;
  }

  async function answerChallenge(wwwAuthenticate: string, used: string | undefined): Promise<string | undefined> {
    if (running !== undefined) await running;
    // Another request has obtained a new header in the meantime.
    if (granted !== undefined && granted.header !== used) return undefined;
    const challenges = parseChallenges(wwwAuthenticate);
    const answer = answerTo(challenges, host, credentials, scope);
    if (answer === undefined) return unansweredText(challenges, host, false);
    if (typeof answer !== 'string') await obtain(answer);
    else granted = { header: answer, expiresAtMs: Number.POSITIVE_INFINITY };
    return granted?.header === used ? unansweredText(challenges, host, true) : undefined;
  }

  function obtain(request: TokenRequest): Promise<void> {
    running ??= fetchToken(deps, host, credentials, request)
      .then((token) => {
        granted = token;
      })
      .finally(() => {
        running = undefined;
      });
    return running;
  }

  return {
    authorization,
    answerChallenge,
    secrets: () => [...secretsOf(credentials), ...(granted === undefined ? [] : [granted.header.replace(/^\w+ /, '')])],
  };
}

/** Returns a header, or a token request; undefined when the credentials cannot answer the challenges. Prefers tokens to passwords. */
function answerTo(challenges: readonly Challenge[], host: RegistryHost, credentials: Credentials, scope: string): string | TokenRequest | undefined {
  const bearer = challenges.find((challenge) => challenge.scheme === 'bearer');
  if (bearer !== undefined && credentials.kind === 'bearer') return `Bearer ${credentials.token}`;
  const request = bearer === undefined ? undefined : toTokenRequest(bearer, host.scheme, scope);
  if (request !== undefined) return request;
  const isBasic = challenges.some((challenge) => challenge.scheme === 'basic');
  return isBasic && credentials.kind === 'basic' ? basicAuthorization(credentials.username, credentials.password) : undefined;
}

async function fetchToken(deps: AuthorizerDeps, host: RegistryHost, credentials: Credentials, request: TokenRequest): Promise<Granted> {
  const requestedAtMs = Date.now();
  const { message } = await deps.transport.send(toHttpRequest(host, credentials, request)).catch((error: unknown) => {
    const { kind, message: reason, isLasting } = failureOfError(error);
    throw new HostFailure(kind, `token service ${request.realm.origin}${request.realm.pathname}: ${reason}`, { isLasting, cause: error });
  });
  const status = message.statusCode ?? 0;
  if (status !== 200) {
    const explanation = explanationOf(await readExplanation(message, deps.stallTimeoutMs, deps.signal), secretsOf(credentials));
    discard(message);
    const failure = failureOfStatus(status, message.headers['retry-after'], explanation, Date.now());
    // A token service answers 400 to an unknown refresh token; its 404 does not mean that the image is missing.
    const kind = status === 400 ? 'unauthorized' : failure.kind === 'missing' ? 'wrong' : failure.kind;
    throw new HostFailure(kind, `token service ${request.realm.origin}${request.realm.pathname}: ${failure.message}`, {
      retryAfterMs: failure.retryAfterMs,
    });
  }
  const token = parseTokenResponse(await readBody(message, tokenResponseBytesMax, deps.stallTimeoutMs, deps.signal));
  if (token === undefined) throw new HostFailure('wrong', `token service ${request.realm.origin}${request.realm.pathname}: no token in the response`);
  return { header: `Bearer ${token.token}`, expiresAtMs: requestedAtMs + token.lifetimeMs, request };
}

function toHttpRequest(host: RegistryHost, credentials: Credentials, { realm, service, scope }: TokenRequest): HttpRequest {
  const isSameHost = realm.host === host.host;
  const tls = isSameHost ? host.tls : { ...host.tls, clientPairs: [] };
  const fields = new URLSearchParams({ ...(service === '' ? {} : { service }), scope });
  if (credentials.kind === 'identity-token') {
    fields.set('grant_type', 'refresh_token');
    fields.set('refresh_token', credentials.token);
    fields.set('client_id', clientId);
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    return { url: realm, method: 'POST', headers, ownHeaders: {}, body: fields.toString(), tls };
  }
  const url = new URL(realm);
  for (const [name, value] of fields) url.searchParams.append(name, value);
  const ownHeaders = credentials.kind === 'basic' ? { authorization: basicAuthorization(credentials.username, credentials.password) } : {};
  return { url, method: 'GET', headers: { accept: 'application/json' }, ownHeaders, tls };
}
