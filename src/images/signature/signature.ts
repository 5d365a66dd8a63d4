/**
 * Image signatures in the format of cosign and skopeo: their location, their claim, and their verification.
 *
 * Computes only, fetches nothing. A payload is used only after a key has verified its bytes.
 * Source: cosign's SIGNATURE_SPEC.md; containers/image, docs/containers-signature.5.md for the fields.
 */
import { type KeyObject, verify } from 'node:crypto';
import { failedPrecondition } from '../../lib/errors.ts';
import { type Descriptor, parseDescriptor } from '../document/manifest.ts';
import { onlyFields, parseFields, parseJsonObject, toFields, toList, toObject, toOptionalTextMap, toText } from '../document/untrusted-json.ts';

/** Payload and signature in base64. They are stored unchanged, to be verified again after a change of the policy. */
export type Signature = { readonly payload: string; readonly signature: string };

/** The claim of a signature. */
export type SignedClaim = { readonly manifestDigest: string; readonly reference: string };

/** Payloads have some hundred bytes in practice. */
export const payloadBytesMax = 64 << 10;
/** Limit for one image. */
const signaturesMax = 100;
const annotationsMax = 1000;
const payloadType = 'application/vnd.dev.cosign.simplesigning.v1+json';
const signatureAnnotation = 'dev.cosignproject.cosign/signature';

/** Returns the tag, in the repository of the image, of the manifest that contains the signatures of a manifest. */
export function signatureTag(manifestDigest: string): string {
  return `${manifestDigest.replace(':', '-')}.sig`;
}

/**
 * Returns the signatures in a signature manifest. Ignores other layers.
 *
 * @throws {BerthError} FAILED_PRECONDITION when it is not a manifest.
 */
export function parseSignatureManifest(bytes: Buffer): readonly { readonly payload: Descriptor; readonly signature: string }[] {
  const { layers } = parseFields(bytes, 'signature manifest', ['layers']);
  return toList(layers, 'signature manifest layers', signaturesMax).flatMap((value, position) => {
    const what = `signature manifest layers[${position}]`;
    const payload = parseDescriptor(value, what);
    const { annotations } = toFields(value, what, ['annotations']);
    const signature = toOptionalTextMap(annotations, `${what} annotations`, annotationsMax)[signatureAnnotation];
    return payload.mediaType === payloadType && signature !== undefined ? [{ payload, signature }] : [];
  });
}

/**
 * Verifies a signature and returns its claim; undefined when none of the keys made it.
 *
 * @throws {BerthError} FAILED_PRECONDITION when the payload is not a claim about an image: the owner of the key signed something else.
 */
export function claimSignedBy(keys: readonly KeyObject[], { payload, signature }: Signature): SignedClaim | undefined {
  const bytes = Buffer.from(payload, 'base64');
  const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(signature);
  return isBase64 && keys.some((key) => hasSigned(key, bytes, Buffer.from(signature, 'base64'))) ? parseClaim(bytes) : undefined;
}

/** Returns the digest of the manifest in a claim, without verifying the signature; undefined when there is none. */
export function manifestOf({ payload }: Signature): string | undefined {
  try {
    return parseClaim(Buffer.from(payload, 'base64')).manifestDigest;
  } catch {
    return undefined;
  }
}

/** Supports ECDSA and RSA (PKCS #1 v1.5) over SHA-256, and Ed25519. */
function hasSigned(key: KeyObject, bytes: Buffer, signature: Buffer): boolean {
  return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', bytes, key, signature);
}

/** As strict as containers/image: an unknown field may be a condition that is not checked here. */
function parseClaim(bytes: Buffer): SignedClaim {
  const document = parseJsonObject(bytes, 'signature');
  onlyFields(document, ['critical', 'optional'], 'signature');
  const critical = toObject(document.critical, 'signature critical');
  onlyFields(critical, ['type', 'image', 'identity'], 'signature critical');
  if (critical.type !== 'cosign container image signature') throw failedPrecondition('signature: not a container image signature');
  const image = toObject(critical.image, 'signature image');
  onlyFields(image, ['docker-manifest-digest'], 'signature image');
  const identity = toObject(critical.identity, 'signature identity');
  onlyFields(identity, ['docker-reference'], 'signature identity');
  return {
    manifestDigest: toText(image['docker-manifest-digest'], 'signature digest'),
    reference: toText(identity['docker-reference'], 'signature docker-reference'),
  };
}
