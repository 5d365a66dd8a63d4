import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { test } from 'node:test';
import { claimSignedBy, manifestOf, parseSignatureManifest, signatureTag } from './signature.ts';

const digest = `sha256:${'a'.repeat(64)}`;
const claim = (changes: object = {}) => ({
  critical: {
    type: 'cosign container image signature',
    image: { 'docker-manifest-digest': digest },
    identity: { 'docker-reference': 'example.com/app' },
    ...changes,
  },
  optional: null,
});

function signed(document: unknown, key: KeyObject) {
  const bytes = Buffer.from(JSON.stringify(document));
  const signature = sign(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', bytes, key).toString('base64');
  return { payload: bytes.toString('base64'), signature };
}

const pairs = {
  ecdsa: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  'ecdsa p384': generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  rsa: generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ed25519: generateKeyPairSync('ed25519'),
};

for (const [name, { privateKey, publicKey }] of Object.entries(pairs)) {
  test(`claimSignedBy() accepts only an unmodified payload signed by a given ${name} key`, () => {
    const good = signed(claim(), privateKey);
    const otherKeys = Object.values(pairs).flatMap((pair) => (pair.publicKey === publicKey ? [] : [pair.publicKey]));
    assert.deepEqual(claimSignedBy([...otherKeys, publicKey], good), { manifestDigest: digest, reference: 'example.com/app' });
    assert.equal(claimSignedBy(otherKeys, good), undefined);
    assert.equal(claimSignedBy([], good), undefined);
    const tampered = Buffer.from(good.payload, 'base64').toString().replace('/app', '/apq');
    assert.equal(claimSignedBy([publicKey], { ...good, payload: Buffer.from(tampered).toString('base64') }), undefined);
    for (const signature of ['', '!!', good.signature.slice(4), `${good.signature} `, `${good.signature}\n${good.signature}`]) {
      assert.equal(claimSignedBy([publicKey], { ...good, signature }), undefined, JSON.stringify(signature));
    }
  });
}

test('claimSignedBy() refuses a signed payload that is not a claim about an image', () => {
  const { privateKey, publicKey } = pairs.ecdsa;
  for (const document of [
    [],
    {},
    { ...claim(), more: 1 },
    claim({ type: 'atomic container signature' }),
    claim({ until: '2020-01-01' }),
    claim({ image: {} }),
    claim({ identity: { 'docker-reference': 7 } }),
  ]) {
    assert.throws(() => claimSignedBy([publicKey], signed(document, privateKey)), { code: 'FAILED_PRECONDITION' }, JSON.stringify(document));
    assert.equal(manifestOf(signed({}, privateKey)), undefined);
  }
});

test('parseSignatureManifest() finds the signatures, and limits their number', () => {
  const layer = {
    mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json',
    digest,
    size: 7,
    annotations: { 'dev.cosignproject.cosign/signature': 'c2ln', other: 'x' },
  };
  const parse = (layers: unknown) => parseSignatureManifest(Buffer.from(JSON.stringify({ layers })));
  const attestation = { ...layer, mediaType: 'application/vnd.dsse.envelope.v1+json' };
  const { annotations: _none, ...unsigned } = layer;
  assert.deepEqual(parse([attestation, layer, unsigned]), [{ payload: { mediaType: layer.mediaType, digest, sizeBytes: 7 }, signature: 'c2ln' }]);
  assert.deepEqual(parse(undefined), []);
  for (const layers of [{}, [7], [{ ...layer, digest: 'md5:1' }], Array(101).fill(layer), [{ ...layer, annotations: { a: 1 } }]]) {
    assert.throws(() => parse(layers), { code: 'FAILED_PRECONDITION' });
  }
  assert.equal(signatureTag(digest), `sha256-${'a'.repeat(64)}.sig`);
});
