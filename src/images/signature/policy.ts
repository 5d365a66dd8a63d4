/**
 * Reads a signature policy, containers-policy.json(5), and finds what it requires of an image.
 *
 * Pure: reads no keys and checks no signature. What it does not understand makes the whole policy invalid: a typo must not open a door.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { formatReference, type Reference, repositoryName } from '../document/reference.ts';
import {
  duplicateKey,
  type JsonObject,
  onlyFields,
  parseJsonObject,
  quoted,
  toArray,
  toObject,
  toText,
  toTexts,
} from '../document/untrusted-json.ts';
import { parseSignedIdentity, type SignedIdentity } from './signed-identity.ts';

/** Where a public key in PEM is. */
export type KeySource = { readonly path: string } | { readonly pem: string };

export type Requirement =
  | { readonly type: 'insecureAcceptAnything' }
  | { readonly type: 'reject' }
  /** A signature by one of the keys is enough. */
  | { readonly type: 'sigstoreSigned'; readonly keys: readonly KeySource[]; readonly identity: SignedIdentity }
  /** Known to the format, but not to berth: no image fulfils it. */
  | { readonly type: 'unsupported'; readonly reason: string };

/** Requirements are met only all together. */
export type Policy = {
  readonly default: readonly Requirement[];
  /** Of the transport `docker`, by scope. */
  readonly scopes: ReadonlyMap<string, readonly Requirement[]>;
};

/** What applies to one image. `scope`: for messages. */
export type Rule = { readonly scope: string; readonly requirements: readonly Requirement[] };

const entriesMax = 10_000;

/** @throws {BerthError} FAILED_PRECONDITION naming the place of what is not as the format says. */
export function parsePolicy(bytes: Buffer): Policy {
  const document = parseJsonObject(bytes, 'signature policy');
  const twice = duplicateKey(bytes.toString('utf8'));
  if (twice !== undefined) throw failedPrecondition(`signature policy: ${quoted(twice)} is there twice`);
  onlyFields(document, ['default', 'transports'], 'signature policy');
  const transports = Object.entries(document.transports === undefined ? {} : toObject(document.transports, 'signature policy transports'));
  const byTransport = new Map(transports.map(([name, scopes]) => [name, parseScopes(scopes, `signature policy transports.${name}`)]));
  return { default: parseRequirements(document.default, 'signature policy default'), scopes: byTransport.get('docker') ?? new Map() };
}

function parseScopes(value: unknown, what: string): Policy['scopes'] {
  return new Map(Object.entries(toObject(value, what)).map(([scope, list]) => [scope, parseRequirements(list, `${what}[${quoted(scope)}]`)]));
}

function parseRequirements(value: unknown, what: string): readonly Requirement[] {
  const list = toArray(value, what, entriesMax);
  if (list.length === 0) throw failedPrecondition(`${what}: is empty; to require nothing, say insecureAcceptAnything`);
  return list.map((each, position) => parseRequirement(toObject(each, `${what}[${position}]`), `${what}[${position}]`));
}

function parseRequirement(requirement: JsonObject, what: string): Requirement {
  const type = toText(requirement.type, `${what} type`);
  if (type === 'insecureAcceptAnything' || type === 'reject') {
    onlyFields(requirement, ['type'], what);
    return { type };
  }
  if (type === 'sigstoreSigned') return parseSigstoreSigned(requirement, what);
  if (type === 'signedBy')
    return { type: 'unsupported', reason: 'the policy asks for a GPG signature (signedBy), and berth checks sigstore keys only' };
  throw failedPrecondition(`${what}: ${quoted(type)} is no type of requirement`);
}

const keyFields = ['keyPath', 'keyPaths', 'keyData', 'keyDatas'];
const certificateFields = ['fulcio', 'pki'];
const logFields = ['rekorPublicKeyPath', 'rekorPublicKeyPaths', 'rekorPublicKeyData', 'rekorPublicKeyDatas'];

function parseSigstoreSigned(requirement: JsonObject, what: string): Requirement {
  onlyFields(requirement, ['type', 'signedIdentity', ...keyFields, ...certificateFields, ...logFields], what);
  const given = [...keyFields, ...certificateFields].filter((field) => requirement[field] !== undefined);
  if (given.length !== 1) throw failedPrecondition(`${what}: should have one of ${[...keyFields, ...certificateFields].join(', ')}`);
  const identity = parseSignedIdentity(requirement.signedIdentity, `${what} signedIdentity`);
  // To leave it out would accept what the policy does not.
  const unknown = [...certificateFields, ...logFields].find((field) => requirement[field] !== undefined);
  if (unknown !== undefined) return { type: 'unsupported', reason: `the policy uses ${unknown}, and berth checks signatures by public keys only` };
  return { type: 'sigstoreSigned', keys: parseKeys(requirement, what), identity };
}

function parseKeys({ keyPath, keyPaths, keyData, keyDatas }: JsonObject, what: string): readonly KeySource[] {
  const paths = keyPath === undefined ? keyPaths : [keyPath];
  const texts = keyData === undefined ? keyDatas : [keyData];
  const keys: readonly KeySource[] =
    paths === undefined
      ? toTexts(texts, `${what} keyData`, entriesMax).map((text) => ({ pem: Buffer.from(text, 'base64').toString('utf8') }))
      : toTexts(paths, `${what} keyPath`, entriesMax).map((path) => ({ path }));
  if (keys.length === 0) throw failedPrecondition(`${what}: has no keys`);
  return keys;
}

/**
 * The most specific scope decides alone: the image, its repository, the namespaces above it, the host, `*.` and the domains above that, '' for all, then the default.
 *
 * @param ref undefined for an image without a name.
 */
export function ruleFor(policy: Policy, ref: Reference | undefined): Rule {
  for (const scope of ref === undefined ? [] : scopesOf(ref)) {
    const requirements = policy.scopes.get(scope);
    if (requirements !== undefined) return { scope: scope === '' ? 'docker' : scope, requirements };
  }
  return { scope: 'default', requirements: policy.default };
}

function scopesOf(ref: Reference): readonly string[] {
  const parts = repositoryName(ref).split('/');
  const prefixes = parts.map((_part, index) => parts.slice(0, parts.length - index).join('/'));
  const labels = ref.domain.replace(/:[0-9]+$/, '').split('.');
  const wildcards = labels.slice(1).map((_label, index) => `*.${labels.slice(index + 1).join('.')}`);
  return [formatReference(ref), ...prefixes, ...wildcards, ''];
}
