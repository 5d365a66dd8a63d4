/**
 * Decides whether the policy accepts the name in a signature for the requested image.
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

/** Parses a `signedIdentity`. @throws {BerthError} FAILED_PRECONDITION when it is invalid. */
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
      if (parsed(field('dockerReference'))?.hasPlace !== true)
        throw failedPrecondition(`${what} dockerReference: must be a name with a tag or digest`);
      return { type, reference: field('dockerReference') };
    case 'exactRepository':
      onlyFields(identity, ['type', 'dockerRepository'], what);
      if (parsed(field('dockerRepository')) === undefined) throw failedPrecondition(`${what} dockerRepository: invalid repository name`);
      return { type, repository: field('dockerRepository') };
    case 'remapIdentity':
      onlyFields(identity, ['type', 'prefix', 'signedPrefix'], what);
      return { type, prefix: prefixOf(field('prefix'), what), signedPrefix: prefixOf(field('signedPrefix'), what) };
    default:
      throw failedPrecondition(`${what}: unknown identity type ${quoted(type)}`);
  }
}

/** A prefix is a host, a namespace or a repository, without tag and digest. */
function prefixOf(text: string, what: string): string {
  if (/^[^/@\s]+(?:\/[^/:@\s]+)*$/.test(text)) return text;
  throw failedPrecondition(`${what}: prefix ${quoted(text)} must be a host, a namespace or a repository`);
}

/**
 * Reports whether the signed name is accepted for the requested one.
 *
 * @param requested a result of meaningOf().
 * @param signed the name in the signature.
 */
export function isIdentityAccepted(identity: SignedIdentity, requested: Reference, signed: string): boolean {
  const claimed = parsed(signed);
  if (claimed === undefined) return false;
  switch (identity.type) {
    case 'matchExact':
      return claimed.hasPlace && fullText(claimed.ref) === fullText(requested);
    case 'matchRepoDigestOrExact':
      return matchesRepoDigestOrExact(requested, claimed);
    case 'matchRepository':
      return isSameRepository(claimed.ref, requested);
    case 'exactReference':
      return claimed.hasPlace && fullText(claimed.ref) === fullText(parseReference(identity.reference));
    case 'exactRepository':
      return isSameRepository(claimed.ref, parseReference(identity.repository));
    case 'remapIdentity': {
      const origin = remapped(requested, identity);
      return origin !== undefined && matchesRepoDigestOrExact(origin, claimed);
    }
  }
}

/** `hasPlace`: the text has a tag or a digest. If not, parseReference() adds a tag. */
type Parsed = { readonly ref: Reference; readonly hasPlace: boolean };

function parsed(text: string): Parsed | undefined {
  const ref = findReference(text);
  return ref && { ref, hasPlace: text.includes('@') || text.lastIndexOf(':') > text.lastIndexOf('/') };
}

function matchesRepoDigestOrExact(requested: Reference, { ref, hasPlace }: Parsed): boolean {
  if (!hasPlace) return false;
  // The digest itself is compared with the manifest's by the caller.
  return requested.digest === undefined ? fullText(ref) === fullText(requested) : isSameRepository(ref, requested);
}

const isSameRepository = (one: Reference, other: Reference): boolean => repositoryName(one) === repositoryName(other);

function fullText(ref: Reference): string {
  const tag = ref.tag === undefined ? '' : `:${ref.tag}`;
  return `${repositoryName(ref)}${tag}${ref.digest === undefined ? '' : `@${ref.digest}`}`;
}

/** Returns the name of a mirror's image at its origin; undefined when it would be invalid. */
function remapped(requested: Reference, { prefix, signedPrefix }: { readonly prefix: string; readonly signedPrefix: string }): Reference | undefined {
  const name = repositoryName(requested);
  if (name !== prefix && !name.startsWith(`${prefix}/`)) return requested;
  const origin = parsed(`${signedPrefix}${name.slice(prefix.length)}`)?.ref;
  return origin && { ...requested, domain: origin.domain, path: origin.path };
}
