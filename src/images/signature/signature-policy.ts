/**
 * Checks images against the node's signature policy: at a pull before anything is unpacked, and again when containers are created.
 *
 * Policy and keys are read for each check, so that a change takes effect immediately. Anything that cannot be read or checked is refused.
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
   * Fetches and checks the signatures of an image.
   *
   * @param digests of the image's manifest and of the indexes that led to it. A signature of any one suffices, because each contains the digest
   *   of the next.
   * @returns the signatures by which the policy accepted the image, to be stored with it; none if the policy requires none.
   * @throws {BerthError} FAILED_PRECONDITION `SignatureValidationFailed: …`, a prefix that the kubelet recognizes; else as the session.
   */
  readonly verify: (session: RegistrySession, ref: Reference, digests: readonly string[]) => Promise<readonly Signature[]>;
  /**
   * Checks an image on the node.
   *
   * @param names of the image; it is accepted if the policy accepts one of them. Without a name, the default of the policy applies.
   * @param kept the results of verify() for all names under which the image was pulled.
   * @returns the error that verify() would throw; undefined when the image is accepted.
   */
  readonly refusal: (names: readonly string[], kept: readonly Signature[]) => BerthError | undefined;
};

/** Opens a policy file in the format of containers-policy.json(5); '' for none. @throws {BerthError} FAILED_PRECONDITION when it is invalid. */
export function openSignaturePolicy(file: string): SignaturePolicy | undefined {
  if (file === '') return undefined;
  readPolicy(file);
  return {
    verify: async (session, ref, digests) => {
      const rule = ruleFor(readPolicy(file), ref);
      const evaluate = createEvaluation(rule, ref, (digest) => digests.includes(digest));
      const signatures: Signature[] = [];
      let reason = evaluate(signatures);
      for (const digest of rule.requirements.every(canBeMet) ? digests : []) {
        if (reason === undefined) break;
        signatures.push(...(await fetchSignatures(session, digest).catch((error: unknown) => throwFetchError(error, ref, rule))));
        reason = evaluate(signatures);
      }
      if (reason !== undefined) throw refused(formatReference(ref), rule, reason);
      // Only signatures of this image are stored with it: refusal() does not check the digests again.
      return signatures.filter((signature) => digests.includes(manifestOf(signature) ?? ''));
    },
    refusal: (names, kept) => {
      const policy = readPolicy(file);
      const refs = names.flatMap((name) => findReference(name) ?? []);
      const found = (refs.length === 0 ? [undefined] : refs).map((ref) => {
        const rule = ruleFor(policy, ref);
        const reason = createEvaluation(rule, ref, () => true)(kept);
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
    throw failedPrecondition(`read signature policy ${file}: ${reasonOf(error)}`, error);
  }
}

const canBeMet = ({ type }: Requirement): boolean => type !== 'reject' && type !== 'unsupported';

function refused(subject: string, { scope }: Rule, reason: string): BerthError {
  return failedPrecondition(`SignatureValidationFailed: image ${subject}: ${reason} (signature policy, scope ${quoted(scope)})`);
}

/** Reports malformed signatures as a refusal of the image, but an unavailable registry as it is. */
function throwFetchError(error: unknown, ref: Reference, rule: Rule): never {
  if (error instanceof BerthError && error.code === 'FAILED_PRECONDITION') throw refused(formatReference(ref), rule, reasonOf(error));
  throw error;
}

/** Returns why signatures do not meet a rule; undefined when they do. */
type Evaluation = (signatures: readonly Signature[]) => string | undefined;

/** @param isOfImage reports whether a manifest belongs to the image. */
function createEvaluation({ requirements }: Rule, name: Reference | undefined, isOfImage: (digest: string) => boolean): Evaluation {
  const ref = name && meaningOf(name);
  // Requirements that no signature can meet are reported first.
  const unmeetable = requirements.filter((requirement) => !canBeMet(requirement));
  const checks = (unmeetable.length > 0 ? unmeetable : requirements).map((requirement): Evaluation => {
    if (requirement.type === 'insecureAcceptAnything') return () => undefined;
    if (requirement.type === 'reject') return () => 'rejected';
    if (requirement.type === 'unsupported') return () => requirement.reason;
    const keys = requirement.keys.map(readKey);
    const rejectionOf = (signature: Signature): string | undefined => {
      const claim = claimOf(keys, signature);
      if (typeof claim === 'string') return claim;
      if (!isOfImage(claim.manifestDigest)) return `signed for another manifest, ${quoted(claim.manifestDigest)}`;
      const isAccepted = ref !== undefined && isIdentityAccepted(requirement.identity, ref, claim.reference);
      return isAccepted ? undefined : `signed for another name, ${quoted(claim.reference)}`;
    };
    return (signatures) => {
      const rejections = signatures.map(rejectionOf);
      if (rejections.includes(undefined)) return undefined;
      return rejections.length === 0 ? 'a signature is required, but there is none' : [...new Set(rejections)].join('; ');
    };
  });
  return (signatures) => {
    for (const check of checks) {
      const reason = check(signatures);
      if (reason !== undefined) return reason;
    }
    return undefined;
  };
}

function claimOf(keys: readonly KeyObject[], signature: Signature): SignedClaim | string {
  try {
    return claimSignedBy(keys, signature) ?? 'not signed by a key of the policy';
  } catch (error) {
    return reasonOf(error);
  }
}

function readKey(source: KeySource): KeyObject {
  const place = 'path' in source ? source.path : '(keyData)';
  try {
    const key = createPublicKey('path' in source ? readFileSync(source.path) : source.pem);
    if (!['ec', 'rsa', 'ed25519'].includes(key.asymmetricKeyType ?? ''))
      throw new Error('unsupported key type; supported are ECDSA, RSA and Ed25519');
    return key;
  } catch (error) {
    throw failedPrecondition(`read public key ${place} of the signature policy: ${reasonOf(error)}`, error);
  }
}

/** Returns no signatures when the repository has none of the manifest. */
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
