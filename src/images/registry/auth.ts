/**
 * Who asks: the credentials of a pull request, and the challenges by which a registry says what it wants to see.
 *
 * Pure: never sends anything. No message made here contains a credential.
 */
import { invalidArgument } from '../../lib/errors.ts';

/** As the CRI request carries it; '' where unset. */
export type RegistryAuth = {
  readonly username: string;
  readonly password: string;
  /** Base64 of `username:password`. */
  readonly auth: string;
  /** The registry that these are for, '' when the request does not say. */
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
};

export type Credentials =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  /** A refresh token, to be exchanged at the token service. */
  | { readonly kind: 'identity-token'; readonly token: string }
  /** Ready to be sent to the registry. */
  | { readonly kind: 'bearer'; readonly token: string };

/** One challenge of a WWW-Authenticate header; the scheme and the names of parameters in lower case. */
export type Challenge = { readonly scheme: string; readonly parameters: ReadonlyMap<string, string> };

/** What may stand in a header after `Bearer `: visible ASCII. */
const bearerPattern = /^[\x21-\x7e]{1,65536}$/;
const dockerHubNames: readonly string[] = ['docker.io', 'index.docker.io', 'registry-1.docker.io'];

/**
 * The credentials that a request carries for a registry. Those for another `serverAddress` are none.
 *
 * @param host with optional port, as in an image name.
 * @throws {BerthError} INVALID_ARGUMENT when `auth` is not base64 of `username:password`, or a token cannot be sent.
 */
export function credentialsFrom(auth: RegistryAuth | undefined, host: string): Credentials {
  if (auth === undefined || (auth.serverAddress !== '' && !isAddressOf(auth.serverAddress, host))) return { kind: 'anonymous' };
  // A user name beside an identity token is a placeholder of docker login.
  if (auth.username !== '' && (auth.password !== '' || auth.identityToken === '')) {
    return { kind: 'basic', username: auth.username, password: auth.password };
  }
  if (auth.identityToken !== '') return { kind: 'identity-token', token: auth.identityToken };
  if (auth.auth !== '') return decodeBasic(auth.auth);
  if (auth.registryToken === '') return { kind: 'anonymous' };
  if (!bearerPattern.test(auth.registryToken)) throw invalidArgument('registry credentials: registry_token is not printable ASCII');
  return { kind: 'bearer', token: auth.registryToken };
}

/** Whether `https://registry.example/v1/`, or the host alone, means the host. */
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
  if (colon < 0) throw refuse('holds no colon between user name and password');
  // Some tools pad the decoded text with NULs.
  return { kind: 'basic', username: decoded.slice(0, colon), password: decoded.slice(colon + 1).replace(/\0+$/, '') };
}

/** The header that goes with credentials that need no token service. */
export function basicAuthorization(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}

/** What must not appear in a message about a request with these credentials. */
export function secretsOf(credentials: Credentials): readonly string[] {
  if (credentials.kind === 'anonymous') return [];
  if (credentials.kind !== 'basic') return [credentials.token];
  return [credentials.password, basicAuthorization(credentials.username, credentials.password).slice('Basic '.length)].filter(
    (secret) => secret !== '',
  );
}

/**
 * The challenges of one or several WWW-Authenticate headers joined by commas. What is malformed is left out; the rest stands.
 * Source: RFC 9110 section 11.6.1.
 */
export function parseChallenges(header: string): readonly Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  // Either `name = value`, or a name that begins a challenge, with a token68 after it where there is one.
  const element = /[\s,]*(?:([!#$%&'*+.^_`|~\w-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",=]+)(?=\s*(?:,|$)))|(?=[\s,]|$))|[^\s,]+)/gsy;
  for (let match = element.exec(header); match !== null && match[0] !== ''; match = element.exec(header)) {
    const [, name, inQuotes, bare] = match;
    if (name === undefined) continue;
    if (inQuotes === undefined && bare === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: new Map() });
    else challenges.at(-1)?.parameters.set(name.toLowerCase(), inQuotes?.replace(/\\(.)/gs, '$1') ?? bare ?? '');
  }
  return challenges;
}

/** Where and for what a token is to be had. */
export type TokenRequest = { readonly realm: URL; readonly service: string; readonly scope: string };

/**
 * @param fallbackScope where the registry names none.
 * @returns undefined when the challenge names no usable token service. One without TLS is no place for the credentials of a registry with TLS.
 */
export function toTokenRequest(challenge: Challenge, registryScheme: 'http' | 'https', fallbackScope: string): TokenRequest | undefined {
  const realm = URL.parse(challenge.parameters.get('realm') ?? '');
  if (realm === null || realm.username !== '' || realm.password !== '') return undefined;
  const isAllowed = realm.protocol === 'https:' || (realm.protocol === 'http:' && registryScheme === 'http');
  if (!isAllowed) return undefined;
  return { realm, service: challenge.parameters.get('service') ?? '', scope: challenge.parameters.get('scope') || fallbackScope };
}

/**
 * The token in a token service's answer, and for how long it may be used.
 * Source: distribution spec of tokens, "token" or "access_token", 60 s where nothing is said.
 *
 * @returns undefined when there is none that could be sent.
 */
export function parseTokenResponse(bytes: Buffer): { token: string; lifetimeMs: number } | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
  if (typeof answer !== 'object' || answer === null) return undefined;
  const fields = answer as Record<string, unknown>;
  const token = [fields.token, fields.access_token].find((value) => typeof value === 'string' && value !== '');
  if (typeof token !== 'string' || !bearerPattern.test(token)) return undefined;
  const seconds = typeof fields.expires_in === 'number' && fields.expires_in > 0 ? fields.expires_in : 60;
  return { token, lifetimeMs: Math.min(seconds, 86_400) * 1000 };
}
