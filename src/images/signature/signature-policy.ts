/**
 * Holds images against the node's signature policy: when they are pulled, before anything is unpacked, and again when containers are made of them.
 *
 * Policy and keys are read anew each time, so a change holds at once. What cannot be read or checked is refused.
 */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { BerthError, failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { findReference, formatReference, meaningOf, type Reference } from '../document/reference.ts';
import { quoted } from '../document/untrusted-json.ts';
import type { RegistrySession } from '../registry/registry.ts';
import { type KeySource, type Policy, parsePolicy, type Requirement, type Rule, ruleFor } from './policy.ts';
import { claimSignedBy, manifestOf, parseSignatureManifest, payloadBytesMax, type Signature, type SignedClaim, signatureTag } from './signature.ts';
import { isIdentityAccepted } from './signed-identity.ts';

export type SignaturePolicy = {
  /**
   * @param digests of the image's manifest and of the indexes that led to it. A signature of any will do, for each names the next by its digest.
   * @returns the signatures that made the policy accept the image, to be kept with it; none where it asks for none.
   * @throws {BerthError} FAILED_PRECONDITION `SignatureValidationFailed: …`, a word that the kubelet looks for; else as the session.
   */
  readonly verify: (session: RegistrySession, ref: Reference, digests: readonly string[]) => Promise<readonly Signature[]>;
  /**
   * Of an image on the node.
   *
   * @param names under which it may be accepted; by one is enough. None: only the policy's default counts.
   * @param kept what verify() gave, by whichever names the image was pulled.
   * @returns why it is not accepted, as verify() throws it.
   */
  readonly refusal: (names: readonly string[], kept: readonly Signature[]) => BerthError | undefined;
};

/** @param file of a policy as containers-policy.json(5) has it; '' for none. @throws {BerthError} FAILED_PRECONDITION for one that cannot be used. */
export function openSignaturePolicy(file: string): SignaturePolicy | undefined {
  if (file === '') return undefined;
  readPolicy(file);
  return {
    verify: async (session, ref, digests) => {
      const rule = ruleFor(readPolicy(file), ref);
      const judge = createJudge(rule, ref, (digest) => digests.includes(digest));
      const signatures: Signature[] = [];
      let reason = judge(signatures);
      for (const digest of rule.requirements.every(isFulfillable) ? digests : []) {
        if (reason === undefined) break;
        signatures.push(...(await fetchSignatures(session, digest).catch((error: unknown) => unusable(error, ref, rule))));
        reason = judge(signatures);
      }
      if (reason !== undefined) throw refused(formatReference(ref), rule, reason);
      // They will be taken for the image's own.
      return signatures.filter((signature) => digests.includes(manifestOf(signature) ?? ''));
    },
    refusal: (names, kept) => {
      const policy = readPolicy(file);
      const refs = names.flatMap((name) => findReference(name) ?? []);
      const found = (refs.length === 0 ? [undefined] : refs).map((ref) => {
        const rule = ruleFor(policy, ref);
        const reason = createJudge(rule, ref, () => true)(kept);
        return reason === undefined ? undefined : refused(ref === undefined ? 'without a name' : formatReference(ref), rule, reason);
      });
      return found.includes(undefined) ? undefined : found[0];
    },
  };
}

function readPolicy(file: string): Policy {
  try {
    return parsePolicy(readFileSync(file));
  } catch (error) {
    throw failedPrecondition(`reading the signature policy ${file}: ${reasonOf(error)}`, error);
  }
}

const isFulfillable = ({ type }: Requirement): boolean => type !== 'reject' && type !== 'unsupported';

function refused(subject: string, { scope }: Rule, reason: string): BerthError {
  return failedPrecondition(`SignatureValidationFailed: image ${subject}: ${reason} (signature policy, scope ${quoted(scope)})`);
}

/** Signatures that are not what they should be are the image's fault; a registry that is away is not. */
function unusable(error: unknown, ref: Reference, rule: Rule): never {
  if (error instanceof BerthError && error.code === 'FAILED_PRECONDITION') throw refused(formatReference(ref), rule, reasonOf(error));
  throw error;
}

/** Says why signatures do not satisfy a rule; undefined when they do. */
type Judge = (signatures: readonly Signature[]) => string | undefined;

/** @param isOurs whether a manifest is the image's. */
function createJudge({ requirements }: Rule, asked: Reference | undefined, isOurs: (digest: string) => boolean): Judge {
  const ref = asked && meaningOf(asked);
  // What no signature can mend is said first.
  const hopeless = requirements.filter((requirement) => !isFulfillable(requirement));
  const tests = (hopeless.length > 0 ? hopeless : requirements).map((requirement): Judge => {
    if (requirement.type === 'insecureAcceptAnything') return () => undefined;
    if (requirement.type === 'reject') return () => 'is rejected';
    if (requirement.type === 'unsupported') return () => requirement.reason;
    const keys = requirement.keys.map(readKey);
    const flaw = (signature: Signature): string | undefined => {
      const claim = claimOf(keys, signature);
      if (typeof claim === 'string') return claim;
      if (!isOurs(claim.manifestDigest)) return `is signed for another manifest, ${quoted(claim.manifestDigest)}`;
      const isAccepted = ref !== undefined && isIdentityAccepted(requirement.identity, ref, claim.reference);
      return isAccepted ? undefined : `is signed for another name, ${quoted(claim.reference)}`;
    };
    return (signatures) => {
      const flaws = signatures.map(flaw);
      if (flaws.includes(undefined)) return undefined;
      return flaws.length === 0 ? 'needs a signature and has none' : [...new Set(flaws)].join('; ');
    };
  });
  return (signatures) => {
    for (const test of tests) {
      const reason = test(signatures);
      if (reason !== undefined) return reason;
    }
    return undefined;
  };
}

function claimOf(keys: readonly KeyObject[], signature: Signature): SignedClaim | string {
  try {
    return claimSignedBy(keys, signature) ?? 'is not signed by a key that the policy names';
  } catch (error) {
    return reasonOf(error);
  }
}

function readKey(source: KeySource): KeyObject {
  const name = 'path' in source ? source.path : 'within the text';
  try {
    const key = createPublicKey('path' in source ? readFileSync(source.path) : source.pem);
    if (!['ec', 'rsa', 'ed25519'].includes(key.asymmetricKeyType ?? '')) throw new Error('is neither ECDSA, RSA nor Ed25519');
    return key;
  } catch (error) {
    throw failedPrecondition(`reading the public key ${name} of the signature policy: ${reasonOf(error)}`, error);
  }
}

/** None where the repository has no signatures of the manifest. */
async function fetchSignatures(session: RegistrySession, manifestDigest: string): Promise<readonly Signature[]> {
  let bytes: Buffer;
  try {
    ({ bytes } = await session.fetchManifest(signatureTag(manifestDigest)));
  } catch (error) {
    if (error instanceof BerthError && error.code === 'NOT_FOUND') return [];
    throw error;
  }
  const signatures: Signature[] = [];
  for (const { payload, signature } of parseSignatureManifest(bytes)) {
    signatures.push({ payload: (await session.fetchSmallBlob(payload, payloadBytesMax)).toString('base64'), signature });
  }
  return signatures;
}
