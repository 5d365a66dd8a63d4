/**
 * Signatures of images as cosign and skopeo attach them: where they are, what they say, and whether a key made them.
 *
 * Computes only: fetches nothing. Nothing of a payload is believed before a key was found that signed its bytes.
 * Source: cosign's SIGNATURE_SPEC.md; containers/image, docs/containers-signature.5.md for the fields.
 */
import { type KeyObject, verify } from 'node:crypto';
import { failedPrecondition } from '../../lib/errors.ts';
import { type Descriptor, parseDescriptor } from '../document/manifest.ts';
import { onlyFields, parseJsonObject, toArray, toObject, toOptionalTextMap, toText } from '../document/untrusted-json.ts';

/** Both as they came, payload and signature in base64: so they are kept, to be checked again under another policy. */
export type Signature = { readonly payload: string; readonly signature: string };

/** What a signature claims. */
export type SignedClaim = { readonly manifestDigest: string; readonly reference: string };

/** Some hundreds of bytes in practice. */
export const payloadBytesMax = 64 << 10;
/** Of one image. */
const signaturesMax = 100;
const annotationsMax = 1000;
const payloadType = 'application/vnd.dev.cosign.simplesigning.v1+json';
const signatureAnnotation = 'dev.cosignproject.cosign/signature';

/** The tag, in the image's own repository, of the manifest that holds the signatures of a manifest. */
export function signatureTag(manifestDigest: string): string {
  return `${manifestDigest.replace(':', '-')}.sig`;
}

/**
 * The signatures that such a manifest holds; layers that are anything else are left out.
 *
 * @throws {BerthError} FAILED_PRECONDITION when it is no manifest.
 */
export function parseSignatureManifest(bytes: Buffer): readonly { readonly payload: Descriptor; readonly signature: string }[] {
  const document = parseJsonObject(bytes, 'signature manifest');
  return toArray(document.layers, 'signature manifest layers', signaturesMax).flatMap((value, position) => {
    const what = `signature manifest layers[${position}]`;
    const payload = parseDescriptor(value, what);
    const signature = toOptionalTextMap(toObject(value, what).annotations, `${what} annotations`, annotationsMax)[signatureAnnotation];
    return payload.mediaType === payloadType && signature !== undefined ? [{ payload, signature }] : [];
  });
}

/**
 * The claim of a signature that one of the keys made; undefined when none did.
 *
 * @throws {BerthError} FAILED_PRECONDITION for a claim of another form: the key's owner signed something else than an image.
 */
export function claimSignedBy(keys: readonly KeyObject[], { payload, signature }: Signature): SignedClaim | undefined {
  const bytes = Buffer.from(payload, 'base64');
  const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(signature);
  return isBase64 && keys.some((key) => hasSigned(key, bytes, Buffer.from(signature, 'base64'))) ? parseClaim(bytes) : undefined;
}

/** The manifest that a signature says it is of, whoever made it; undefined when it says none. */
export function manifestOf({ payload }: Signature): string | undefined {
  try {
    return parseClaim(Buffer.from(payload, 'base64')).manifestDigest;
  } catch {
    return undefined;
  }
}

/** ECDSA and RSA (PKCS #1 v1.5) over SHA-256, and Ed25519. */
function hasSigned(key: KeyObject, bytes: Buffer, signature: Buffer): boolean {
  return verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', bytes, key, signature);
}

/** As strict as containers/image: a field more may mean a condition that is not checked here. */
function parseClaim(bytes: Buffer): SignedClaim {
  const document = parseJsonObject(bytes, 'signature');
  onlyFields(document, ['critical', 'optional'], 'signature');
  const critical = toObject(document.critical, 'signature critical');
  onlyFields(critical, ['type', 'image', 'identity'], 'signature critical');
  if (critical.type !== 'cosign container image signature') throw failedPrecondition('signature: is not that of a container image');
  const image = toObject(critical.image, 'signature image');
  onlyFields(image, ['docker-manifest-digest'], 'signature image');
  const identity = toObject(critical.identity, 'signature identity');
  onlyFields(identity, ['docker-reference'], 'signature identity');
  return {
    manifestDigest: toText(image['docker-manifest-digest'], 'signature digest'),
    reference: toText(identity['docker-reference'], 'signature docker-reference'),
  };
}
