/**
 * Parses a signature policy, containers-policy.json(5), and finds the requirements for an image.
 *
 * Pure: reads no keys and checks no signature. Unknown content makes the complete policy invalid: a typing error must not allow an image.
 */

import { failedPrecondition } from '../../lib/errors.ts';
import type { JsonObject } from '../../lib/go-json.ts';
import { formatReference, type Reference, repositoryName } from '../document/reference.ts';
import { duplicateKey, onlyFields, parseJsonObject, quoted, toArray, toObject, toText, toTexts } from '../document/untrusted-json.ts';
import { parseSignedIdentity, type SignedIdentity } from './signed-identity.ts';

/** A public key in PEM, in a file or in the policy itself. */
export type KeySource = { readonly path: string } | { readonly pem: string };

export type Requirement =
  | { readonly type: 'insecureAcceptAnything' }
  | { readonly type: 'reject' }
  /** Requires a signature by one of the keys. */
  | { readonly type: 'sigstoreSigned'; readonly keys: readonly KeySource[]; readonly identity: SignedIdentity }
  /** Valid, but not supported by berth: no image meets it. */
  | { readonly type: 'unsupported'; readonly reason: string };

/** An image must meet all requirements of a list. */
export type Policy = {
  readonly default: readonly Requirement[];
  /** Scopes of the transport `docker`. */
  readonly scopes: ReadonlyMap<string, readonly Requirement[]>;
};

/** The requirements for one image. `scope`: for messages. */
export type Rule = { readonly scope: string; readonly requirements: readonly Requirement[] };

const entriesMax = 10_000;

/** Parses a policy. @throws {BerthError} FAILED_PRECONDITION with the path of the invalid field. */
export function parsePolicy(bytes: Buffer): Policy {
  const document = parseJsonObject(bytes, 'signature policy');
  const duplicate = duplicateKey(bytes.toString('utf8'));
  if (duplicate !== undefined) throw failedPrecondition(`signature policy: duplicate key ${quoted(duplicate)}`);
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
  if (list.length === 0) throw failedPrecondition(`${what}: empty list; use insecureAcceptAnything to require nothing`);
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
    return { type: 'unsupported', reason: 'the policy requires a GPG signature (signedBy), which is not supported; use sigstoreSigned' };
  throw failedPrecondition(`${what}: unknown requirement type ${quoted(type)}`);
}

const keyFields = ['keyPath', 'keyPaths', 'keyData', 'keyDatas'];
const certificateFields = ['fulcio', 'pki'];
const logFields = ['rekorPublicKeyPath', 'rekorPublicKeyPaths', 'rekorPublicKeyData', 'rekorPublicKeyDatas'];

function parseSigstoreSigned(requirement: JsonObject, what: string): Requirement {
  onlyFields(requirement, ['type', 'signedIdentity', ...keyFields, ...certificateFields, ...logFields], what);
  const given = [...keyFields, ...certificateFields].filter((field) => requirement[field] !== undefined);
  if (given.length !== 1) throw failedPrecondition(`${what}: must have exactly one of ${[...keyFields, ...certificateFields].join(', ')}`);
  const identity = parseSignedIdentity(requirement.signedIdentity, `${what} signedIdentity`);
  // Ignoring it would accept images that the policy rejects.
  const unsupported = [...certificateFields, ...logFields].find((field) => requirement[field] !== undefined);
  if (unsupported !== undefined) return { type: 'unsupported', reason: `the policy uses ${unsupported}; only public keys are supported` };
  return { type: 'sigstoreSigned', keys: parseKeys(requirement, what), identity };
}

function parseKeys({ keyPath, keyPaths, keyData, keyDatas }: JsonObject, what: string): readonly KeySource[] {
  const paths = keyPath === undefined ? keyPaths : [keyPath];
  const texts = keyData === undefined ? keyDatas : [keyData];
  const keys: readonly KeySource[] =
    paths === undefined
      ? toTexts(texts, `${what} keyData`, entriesMax).map((text) => ({ pem: Buffer.from(text, 'base64').toString('utf8') }))
      : toTexts(paths, `${what} keyPath`, entriesMax).map((path) => ({ path }));
  if (keys.length === 0) throw failedPrecondition(`${what}: missing keys`);
  return keys;
}

/**
 * Returns the rule for an image. Only the most specific scope applies: the image, its repository, the namespaces above it, the host, `*.` with the
 * parent domains, '' for all, then the default.
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
