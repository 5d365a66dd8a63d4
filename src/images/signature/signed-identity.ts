/**
 * Whether the name that a signature was made for is one that the policy takes for the image that was asked for.
 *
 * Pure. Source: containers-policy.json(5), "signedBy", signedIdentity.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { findReference, parseReference, type Reference, repositoryName } from '../document/reference.ts';
import { onlyFields, quoted, toObject, toText } from '../document/untrusted-json.ts';

export type SignedIdentity =
  | { readonly type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository' }
  | { readonly type: 'exactReference'; readonly reference: string }
  | { readonly type: 'exactRepository'; readonly repository: string }
  | { readonly type: 'remapIdentity'; readonly prefix: string; readonly signedPrefix: string };

/** @throws {BerthError} FAILED_PRECONDITION for what the format does not have. */
export function parseSignedIdentity(value: unknown, what: string): SignedIdentity {
  if (value === undefined) return { type: 'matchRepoDigestOrExact' };
  const identity = toObject(value, what);
  const type = toText(identity.type, `${what} type`);
  const field = (name: string) => toText(identity[name], `${what} ${name}`);
  switch (type) {
    case 'matchExact':
    case 'matchRepoDigestOrExact':
    case 'matchRepository':
      onlyFields(identity, ['type'], what);
      return { type };
    case 'exactReference':
      onlyFields(identity, ['type', 'dockerReference'], what);
      if (parsed(field('dockerReference'))?.hasPlace !== true) throw failedPrecondition(`${what} dockerReference: is no name with tag or digest`);
      return { type, reference: field('dockerReference') };
    case 'exactRepository':
      onlyFields(identity, ['type', 'dockerRepository'], what);
      if (parsed(field('dockerRepository')) === undefined) throw failedPrecondition(`${what} dockerRepository: is no name of a repository`);
      return { type, repository: field('dockerRepository') };
    case 'remapIdentity':
      onlyFields(identity, ['type', 'prefix', 'signedPrefix'], what);
      return { type, prefix: prefixOf(field('prefix'), what), signedPrefix: prefixOf(field('signedPrefix'), what) };
    default:
      throw failedPrecondition(`${what}: ${quoted(type)} is no type of identity`);
  }
}

/** A host, a namespace or a repository: neither tag nor digest. */
function prefixOf(text: string, what: string): string {
  if (/^[^/@\s]+(?:\/[^/:@\s]+)*$/.test(text)) return text;
  throw failedPrecondition(`${what}: prefix ${quoted(text)} should be a host, a namespace or a repository`);
}

/**
 * @param wanted as meaningOf() gives it.
 * @param signed the name within the signature.
 */
export function isIdentityAccepted(identity: SignedIdentity, wanted: Reference, signed: string): boolean {
  const theirs = parsed(signed);
  if (theirs === undefined) return false;
  switch (identity.type) {
    case 'matchExact':
      return theirs.hasPlace && fullText(theirs.ref) === fullText(wanted);
    case 'matchRepoDigestOrExact':
      return matchesRepoDigestOrExact(wanted, theirs);
    case 'matchRepository':
      return isSameRepository(theirs.ref, wanted);
    case 'exactReference':
      return theirs.hasPlace && fullText(theirs.ref) === fullText(parseReference(identity.reference));
    case 'exactRepository':
      return isSameRepository(theirs.ref, parseReference(identity.repository));
    case 'remapIdentity': {
      const origin = remapped(wanted, identity);
      return origin !== undefined && matchesRepoDigestOrExact(origin, theirs);
    }
  }
}

/** `hasPlace`: whether it says a tag or a digest, which parseReference() else supplies. */
type Parsed = { readonly ref: Reference; readonly hasPlace: boolean };

function parsed(text: string): Parsed | undefined {
  const ref = findReference(text);
  return ref && { ref, hasPlace: text.includes('@') || text.lastIndexOf(':') > text.lastIndexOf('/') };
}

function matchesRepoDigestOrExact(wanted: Reference, { ref, hasPlace }: Parsed): boolean {
  if (!hasPlace) return false;
  // The digest itself is compared with that of the manifest.
  return wanted.digest === undefined ? fullText(ref) === fullText(wanted) : isSameRepository(ref, wanted);
}

const isSameRepository = (one: Reference, other: Reference): boolean => repositoryName(one) === repositoryName(other);

function fullText(ref: Reference): string {
  const tag = ref.tag === undefined ? '' : `:${ref.tag}`;
  return `${repositoryName(ref)}${tag}${ref.digest === undefined ? '' : `@${ref.digest}`}`;
}

/** The name that a mirror's image has at its origin; undefined when that would be none. */
function remapped(wanted: Reference, { prefix, signedPrefix }: { readonly prefix: string; readonly signedPrefix: string }): Reference | undefined {
  const name = repositoryName(wanted);
  if (name !== prefix && !name.startsWith(`${prefix}/`)) return wanted;
  const origin = parsed(`${signedPrefix}${name.slice(prefix.length)}`)?.ref;
  return origin && { ...wanted, domain: origin.domain, path: origin.path };
}
