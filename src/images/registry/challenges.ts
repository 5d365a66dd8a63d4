/**
 * Credentials of a pull request, and the authentication challenges of a registry.
 *
 * Pure: never sends anything. No error message contains a credential.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { goFields, type JsonObject } from '../../lib/go-json.ts';
import { oneLine } from '../document/untrusted-json.ts';

/** The fields of the CRI request; '' when unset. */
export type RegistryAuth = {
  readonly username: string;
  readonly password: string;
  /** Base64 of `username:password`. */
  readonly auth: string;
  /** The registry that the credentials are for; '' when not specified. */
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
};

export type Credentials =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  /** A refresh token, exchanged at the token service. */
  | { readonly kind: 'identity-token'; readonly token: string }
  /** Sent to the registry as it is. */
  | { readonly kind: 'bearer'; readonly token: string };

/** One challenge of a WWW-Authenticate header. The scheme and the parameter names are in lower case. */
export type Challenge = { readonly scheme: string; readonly parameters: ReadonlyMap<string, string> };

/** The characters allowed in a header after `Bearer `: visible ASCII. */
const bearerPattern = /^[\x21-\x7e]{1,65536}$/;
const dockerHubNames: readonly string[] = ['docker.io', 'index.docker.io', 'registry-1.docker.io'];

/**
 * Returns the credentials in a request for a registry. Credentials for another `serverAddress` are ignored.
 *
 * @param host with optional port, as in an image name.
 * @throws {BerthError} INVALID_ARGUMENT when `auth` is not base64 of `username:password`, or a token cannot be sent.
 */
export function credentialsFrom(auth: RegistryAuth | undefined, host: string): Credentials {
  if (auth === undefined || (auth.serverAddress !== '' && !isAddressOf(auth.serverAddress, host))) return { kind: 'anonymous' };
  // With an identity token, docker login writes a placeholder as user name.
  if (auth.username !== '' && (auth.password !== '' || auth.identityToken === '')) {
    return { kind: 'basic', username: auth.username, password: auth.password };
  }
  if (auth.identityToken !== '') return { kind: 'identity-token', token: auth.identityToken };
  if (auth.auth !== '') return decodeBasic(auth.auth);
  if (auth.registryToken === '') return { kind: 'anonymous' };
  if (!bearerPattern.test(auth.registryToken)) throw invalidArgument('registry credentials: registry_token is not printable ASCII');
  return { kind: 'bearer', token: auth.registryToken };
}

/** Reports whether an address, such as `https://registry.example/v1/` or `registry.example`, is that of the host. */
export function isAddressOf(serverAddress: string, host: string): boolean {
  const address = serverAddress.replace(/^https?:\/\//i, '').replace(/[/?#].*$/s, '');
  return canonicalHost(address) === canonicalHost(host);
}

function canonicalHost(host: string): string {
  const name = host.toLowerCase().replace(/:443$/, '');
  return dockerHubNames.includes(name) ? 'docker.io' : name;
}

function decodeBasic(text: string): Credentials {
  const refuse = (reason: string) => invalidArgument(`registry credentials: auth ${reason}`);
  const base64 = text.replace(/[\r\n]/g, '');
  if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) throw refuse('is not base64');
  const decoded = Buffer.from(base64, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon < 0) throw refuse('has no colon between user name and password');
  // Some tools pad the decoded text with NULs.
  return { kind: 'basic', username: decoded.slice(0, colon), password: decoded.slice(colon + 1).replace(/\0+$/, '') };
}

/** Returns the Authorization header for basic authentication. */
export function basicAuthorization(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}

/** Returns the strings that must not appear in any message. */
export function secretsOf(credentials: Credentials): readonly string[] {
  if (credentials.kind === 'anonymous') return [];
  if (credentials.kind !== 'basic') return [credentials.token];
  return [credentials.password, basicAuthorization(credentials.username, credentials.password).slice('Basic '.length)].filter(
    (secret) => secret !== '',
  );
}

/**
 * Parses one or several WWW-Authenticate headers joined by commas. Skips malformed elements.
 * Source: RFC 9110 section 11.6.1.
 */
export function parseChallenges(header: string): readonly Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  // Either `name = value`, or a name that starts a challenge, optionally followed by a token68.
  const element = /[\s,]*(?:([!#$%&'*+.^_`|~\w-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",=]+)(?=\s*(?:,|$)))|(?=[\s,]|$))|[^\s,]+)/gsy;
  for (let match = element.exec(header); match !== null && match[0] !== ''; match = element.exec(header)) {
    const [, name, inQuotes, bare] = match;
    if (name === undefined) continue;
    if (inQuotes === undefined && bare === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: new Map() });
    else challenges.at(-1)?.parameters.set(name.toLowerCase(), inQuotes?.replace(/\\(.)/gs, '$1') ?? bare ?? '');
  }
  return challenges;
}

/** A request to a token service. */
export type TokenRequest = { readonly realm: URL; readonly service: string; readonly scope: string };

/**
 * Returns why berth does not answer the challenges of a host, for the error.
 *
 * @param isRefused the host has refused an answer to them.
 */
export function unansweredText(
  challenges: readonly Challenge[],
  host: { readonly scheme: string; readonly isMirror: boolean },
  isRefused: boolean,
): string {
  const [first] = challenges;
  if (first === undefined) return 'without a challenge';
  const realm = shownRealm(first.parameters.get('realm') ?? '');
  const wanted = `${first.scheme}${realm === '' ? '' : `, realm ${realm}`}`;
  if (isRefused) return `what berth sent was refused (${wanted})`;
  if (first.scheme === 'bearer') {
    const isPlain = realm.toLowerCase().startsWith('http://') && host.scheme === 'https';
    return isPlain
      ? `the token service ${realm} has no TLS, but the registry has: not used`
      : `not answered: its realm is not the URL of a token service (${wanted})`;
  }
  if (first.scheme !== 'basic') return `not answered: berth does not support this authentication (${wanted})`;
  const advice = host.isMirror ? ': those of the pull are not for this mirror; set auth_file in hosts.toml' : '';
  return `no credentials for this host${advice} (${wanted})`;
}

/** Without the parts of a URL that may be a secret: user, password and query. */
function shownRealm(realm: string): string {
  const url = URL.parse(realm);
  const text = url === null || url.origin === 'null' ? realm : `${url.origin}${url.pathname}`;
  return oneLine(text.replace(/[?#].*$/s, '').replace(/^.*@/s, ''));
}

/**
 * Returns the token request that a challenge demands.
 *
 * @param fallbackScope used when the challenge has no scope.
 * @returns undefined when the challenge has no usable token service. A registry with TLS must not use a token service without it.
 */
export function toTokenRequest(challenge: Challenge, registryScheme: 'http' | 'https', fallbackScope: string): TokenRequest | undefined {
  const realm = URL.parse(challenge.parameters.get('realm') ?? '');
  if (realm === null || realm.username !== '' || realm.password !== '') return undefined;
  const isAllowed = realm.protocol === 'https:' || (realm.protocol === 'http:' && registryScheme === 'http');
  if (!isAllowed) return undefined;
  return { realm, service: challenge.parameters.get('service') ?? '', scope: challenge.parameters.get('scope') || fallbackScope };
}

/**
 * Parses the response of a token service: the token and its lifetime.
 * Source: CNCF Distribution, "Token Authentication Specification": "token" or "access_token", 60 s by default.
 *
 * @returns undefined when there is no valid token.
 */
export function parseTokenResponse(bytes: Buffer): { token: string; lifetimeMs: number } | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
  if (typeof answer !== 'object' || answer === null) return undefined;
  const fields = goFields(answer as JsonObject, ['token', 'access_token', 'expires_in']);
  const token = [fields.token, fields.access_token].find((value) => typeof value === 'string' && value !== '');
  if (typeof token !== 'string' || !bearerPattern.test(token)) return undefined;
  const seconds = typeof fields.expires_in === 'number' && fields.expires_in > 0 ? fields.expires_in : 60;
  return { token, lifetimeMs: Math.min(seconds, 86_400) * 1000 };
}
