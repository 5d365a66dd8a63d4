/**
 * Signature policies with images signed by the library of CRI-O and Skopeo: berth accepts the same images as the library and does not unpack others.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeEach, test } from 'node:test';
import { openSignaturePolicy, type SignaturePolicy } from '../../src/images/signature/signature-policy.ts';
import { prepareSignatureTool } from '../signature-tool/prepare.ts';
import { type ImageBed, layerOf, layersOnDisk, type Node, type PushedImage, platform, useImages } from '../support/image-bed.ts';
import { digestOf } from '../support/layer-bed.ts';

const bed: ImageBed = useImages();
const tool = findTool();
const skip = tool === '' ? 'Go is not there, or the modules of the signature tool' : false;
const data = resolve(import.meta.dirname, '../data');
const keyPath = join(data, 'cosign.pub');
const wrongKey = createPublicKey(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey)
  .export({ type: 'spki', format: 'pem' })
  .toString();
const accept = { type: 'insecureAcceptAnything' };
const reject = { type: 'reject' };
const signedBy = (identity?: object) => ({ type: 'sigstoreSigned', keyPath, ...(identity ? { signedIdentity: identity } : {}) });
const wrongly = { type: 'sigstoreSigned', keyData: Buffer.from(wrongKey).toString('base64') };

let plain: PushedImage;

let prepared: Promise<void> | undefined;
beforeEach(() => {
  if (skip === false) prepared ??= prepare();
  return prepared;
});

async function prepare(): Promise<void> {
  mkdirSync(join(bed.directory, 'registries.d'));
  writeFileSync(join(bed.directory, 'registries.d/attachments.yaml'), 'default-docker:\n  use-sigstore-attachments: true\n');
  plain = await bed.push('plain/app', '1', { layers: [layerOf({ file: 'content' })] });
  signCopy('signed/app:1');
  signCopy('signed/elsewhere:1', 'origin.example/team/elsewhere:9');
}

function findTool(): string {
  try {
    return prepareSignatureTool();
  } catch {
    return '';
  }
}

/** Copies the unsigned image and signs it. */
function signCopy(name: string, identity?: string): void {
  const names = [`${bed.host}/plain/app:1`, `${bed.host}/${name}`, ...(identity === undefined ? [] : [identity])];
  execFileSync(tool, ['sign', join(data, 'cosign.key'), 'test', ...names], { stdio: 'pipe' });
}

function policyFile(docker: Readonly<Record<string, readonly object[]>>, fallback: readonly object[] = [reject]): string {
  const file = join(bed.directory, 'policy.json');
  writeFileSync(file, JSON.stringify({ default: fallback, transports: { docker } }));
  return file;
}

function open(file: string): SignaturePolicy {
  const policy = openSignaturePolicy(file);
  assert.ok(policy);
  return policy;
}

const isRejection = (reason: RegExp) => (error: Error & { code?: string }) =>
  error.code === 'FAILED_PRECONDITION' && /^SignatureValidationFailed: image \S+: /.test(error.message) && reason.test(error.message);

/** Pulls with the policy, and checks the image with the library. */
async function pullAndCheck(file: string, name: string): Promise<{ node: Node; error: unknown; libraryAccepts: boolean }> {
  const libraryAccepts = spawnSync(tool, ['accepts', file, join(bed.directory, 'registries.d'), `${bed.host}/${name}`]).status === 0;
  const node = await bed.node({ policy: open(file) });
  const error: unknown = await node.pull(`${bed.host}/${name}`).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return { node, error, libraryAccepts };
}

type Case = readonly [what: string, name: string, requirements: readonly object[], reason?: RegExp];

const cases: readonly Case[] = [
  ['a signature by the key for this name is accepted', 'signed/app:1', [signedBy()]],
  ['a signature by another key is rejected', 'signed/app:1', [wrongly], /not signed by a key/],
  ['all requirements must be met', 'signed/app:1', [signedBy(), wrongly], /not signed by a key/],
  ['an unsigned image is rejected', 'plain/app:1', [signedBy()], /a signature is required, but there is none/],
  ['an unsigned image is accepted with insecureAcceptAnything', 'plain/app:1', [accept]],
  ['reject rejects also signed images', 'signed/app:1', [reject], /: rejected/],
  ['reject overrides other requirements', 'signed/app:1', [signedBy(), reject], /: rejected/],
  ['a signature for another name is rejected', 'signed/elsewhere:1', [signedBy()], /signed for another name, "origin\.example/],
  ['a signature for another repository is rejected', 'signed/elsewhere:1', [signedBy({ type: 'matchRepository' })], /signed for another name/],
  [
    'a signature for the name in the policy is accepted',
    'signed/elsewhere:1',
    [signedBy({ type: 'exactReference', dockerReference: 'origin.example/team/elsewhere:9' })],
  ],
  [
    'a signature for the repository in the policy is accepted',
    'signed/elsewhere:1',
    [signedBy({ type: 'exactRepository', dockerRepository: 'origin.example/team/elsewhere' })],
  ],
];

for (const [what, name, requirements, reason] of cases) {
  test(`${what}, with berth and with the library`, { skip }, async () => {
    const { node, error, libraryAccepts } = await pullAndCheck(policyFile({ [bed.host]: requirements }), name);
    assert.equal(libraryAccepts, reason === undefined);
    if (reason === undefined) return assert.equal(error, undefined, String(error));
    assert.ok(error instanceof Error && isRejection(reason)(error), String(error));
    assert.deepEqual([node.unpacked, layersOnDisk(node.root)], [[], []]);
  });
}

test('the most specific scope applies, else the default, with berth and with the library', { skip }, async () => {
  const specific = policyFile({ [bed.host]: [reject], [`${bed.host}/plain/app`]: [accept] });
  assert.deepEqual(
    [await pullAndCheck(specific, 'plain/app:1'), await pullAndCheck(specific, 'signed/app:1')].map(({ error, libraryAccepts }) => [
      error === undefined,
      libraryAccepts,
    ]),
    [
      [true, true],
      [false, false],
    ],
  );
  const { error, libraryAccepts } = await pullAndCheck(policyFile({ 'other.example': [accept] }), 'plain/app:1');
  assert.ok(isRejection(/scope "default"/)(error as Error), String(error));
  assert.equal(libraryAccepts, false);
});

test('a reference by digest matches by repository, except with matchExact, with berth and with the library', { skip }, async () => {
  const name = `signed/app@${plain.digest}`;
  const [loose, exact] = [
    await pullAndCheck(policyFile({ [bed.host]: [signedBy()] }), name),
    await pullAndCheck(policyFile({ [bed.host]: [signedBy({ type: 'matchExact' })] }), name),
  ];
  assert.deepEqual([loose.error, loose.libraryAccepts, exact.libraryAccepts], [undefined, true, false]);
  assert.ok(isRejection(/another name/)(exact.error as Error));
});

test('the signature of another image and a modified payload are rejected, with berth and with the library', { skip }, async () => {
  const signature = await manifestOf('signed/app', `sha256-${plain.digest.slice(7)}.sig`);
  const other = await bed.push('signed/app', 'other', { layers: [layerOf({ file: 'other' })] });
  await pushSignature('signed/app', other.digest, signature);
  const file = policyFile({ [bed.host]: [signedBy({ type: 'matchRepository' })] });
  const stolen = await pullAndCheck(file, 'signed/app:other');
  assert.ok(isRejection(/signed for another manifest/)(stolen.error as Error), String(stolen.error));
  const payload = Buffer.from(
    (await (await fetch(`http://${bed.host}/v2/signed/app/blobs/${signature.layers[0]?.digest}`)).text()).replace(plain.digest, other.digest),
  );
  assert.ok(payload.includes(other.digest));
  await pushBlob('signed/app', payload);
  const [layer] = signature.layers;
  await pushSignature('signed/app', other.digest, { ...signature, layers: [{ ...layer, digest: digestOf(payload), size: payload.length }] });
  const tampered = await pullAndCheck(file, 'signed/app:other');
  assert.ok(isRejection(/not signed by a key/)(tampered.error as Error), String(tampered.error));
  assert.deepEqual([stolen.libraryAccepts, tampered.libraryAccepts], [false, false]);
});

test('signatures that are too large are rejected', { skip }, async () => {
  const image = await bed.push('large/app', '1', { layers: [layerOf({ file: 'large' })] });
  const template = await manifestOf('signed/app', `sha256-${plain.digest.slice(7)}.sig`);
  const payload = Buffer.alloc(70_000, ' ');
  await pushBlob('large/app', payload);
  await pushBlob('large/app', Buffer.from('{}'));
  const config = { ...template.config, digest: digestOf(Buffer.from('{}')), size: 2 };
  const layers = [{ ...template.layers[0], digest: digestOf(payload), size: payload.length }];
  await pushSignature('large/app', image.digest, { ...template, config, layers });
  const node = await bed.node({ policy: open(policyFile({ [bed.host]: [signedBy()] })) });
  await assert.rejects(node.pull(`${bed.host}/large/app:1`), isRejection(/size of 70000 bytes exceeds/));
});

test('a signature of the index or of the manifest in it is sufficient', { skip }, async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const image = await bed.push('multi/app', 'single', { layers: [layerOf({ file: 'multi' })] });
  const index = await bed.pushIndex('multi/app', '1', [{ image, platform }]);
  const key = publicKey.export({ type: 'spki', format: 'pem' }).toString();
  const requirement = {
    type: 'sigstoreSigned',
    keyData: Buffer.from(key).toString('base64'),
    // Like cosign: the identity is the repository.
    signedIdentity: { type: 'matchRepository' },
  };
  const policy = open(policyFile({ [bed.host]: [requirement] }));
  const name = `${bed.host}/multi/app:1`;
  await assert.rejects((await bed.node({ policy })).pull(name), isRejection(/a signature is required/));
  const payload = Buffer.from(
    JSON.stringify({
      critical: {
        identity: { 'docker-reference': `${bed.host}/multi/app` },
        image: { 'docker-manifest-digest': index },
        type: 'cosign container image signature',
      },
      optional: null,
    }),
  );
  await pushBlob('multi/app', payload);
  const annotations = { 'dev.cosignproject.cosign/signature': sign(null, payload, privateKey).toString('base64') };
  const template = await manifestOf('signed/app', `sha256-${plain.digest.slice(7)}.sig`);
  await pushBlob('multi/app', Buffer.from('{}'));
  const config = { ...template.config, digest: digestOf(Buffer.from('{}')), size: 2 };
  await pushSignature('multi/app', index, {
    ...template,
    config,
    layers: [{ mediaType: template.layers[0]?.mediaType ?? '', digest: digestOf(payload), size: payload.length, annotations }],
  });
  assert.equal((await (await bed.node({ policy })).pull(name)).id, image.id);
});

test('image and signature from a mirror are checked with the name of the origin', { skip }, async () => {
  signCopy('mirrored/app:1', 'origin.example/mirrored/app:1');
  const node = await bed.node({ policy: open(policyFile({ 'origin.example': [signedBy()] })) });
  mkdirSync(join(node.root, 'certs.d/origin.example'), { recursive: true });
  const hosts = `server = "http://127.0.0.1:1"\n[host."http://${bed.host}"]\ncapabilities = ["pull", "resolve"]\n`;
  writeFileSync(join(node.root, 'certs.d/origin.example/hosts.toml'), hosts);
  assert.equal((await node.pull('origin.example/mirrored/app:1')).id, plain.id);
});

test('an image on the node is allowed according to its stored signatures, also after a restart', { skip }, async () => {
  const file = policyFile({ [bed.host]: [signedBy()] });
  const policy = open(file);
  const name = `${bed.host}/signed/app:1`;
  const node = await bed.node({ policy });
  await node.pull(name);
  const restarted = await bed.node({ root: node.root, policy });
  const image = restarted.store.find(name);
  assert.ok(image && image.signatures.length === 1);
  assert.equal(policy.refusal([name], image.signatures), undefined);
  assert.match(policy.refusal([`${bed.host}/signed/app:2`], image.signatures)?.message ?? '', /another name/);
  assert.match(policy.refusal([], image.signatures)?.message ?? '', /without a name: rejected .*scope "default"/);
  assert.equal(policy.refusal([`${bed.host}/signed/app:2`, name], image.signatures), undefined);
  // Change the policy while the daemon is running.
  policyFile({ [bed.host]: [wrongly] });
  assert.match(policy.refusal([name], image.signatures)?.message ?? '', /not signed by a key/);
  await assert.rejects(restarted.pull(name), isRejection(/not signed by a key/));
  writeFileSync(file, '{');
  assert.throws(() => policy.refusal([name], image.signatures), { code: 'FAILED_PRECONDITION', message: /policy.json: .*invalid JSON/ });
});

test('an image pulled before the policy is rejected until a pull has fetched its signatures, without its layers', { skip }, async () => {
  const name = `${bed.host}/signed/app:1`;
  const node = await bed.node();
  const image = await node.pull(name);
  const policy = open(policyFile({ [bed.host]: [signedBy()] }));
  assert.match(policy.refusal([name], image.signatures)?.message ?? '', /a signature is required, but there is none/);
  const later = await bed.node({ root: node.root, policy });
  assert.equal(policy.refusal([name], (await later.pull(name)).signatures), undefined);
  assert.deepEqual(later.unpacked, []);
});

test('an unreadable or invalid policy or key is an error with its path', { skip }, async () => {
  assert.equal(openSignaturePolicy(''), undefined);
  assert.throws(() => openSignaturePolicy(join(bed.directory, 'absent.json')), {
    code: 'FAILED_PRECONDITION',
    message: /absent.json: .*no such file/,
  });
  const missing = open(policyFile({ [bed.host]: [{ type: 'sigstoreSigned', keyPath: '/no/key.pub' }] }));
  const message = /read public key \/no\/key.pub of the signature policy: .*no such file/;
  await assert.rejects((await bed.node({ policy: missing })).pull(`${bed.host}/signed/app:1`), { code: 'FAILED_PRECONDITION', message });
  const gpg = open(policyFile({ [bed.host]: [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' }] }));
  await assert.rejects((await bed.node({ policy: gpg })).pull(`${bed.host}/signed/app:1`), isRejection(/GPG signature \(signedBy\)/));
});

type Manifest = {
  readonly mediaType: string;
  readonly config: object;
  readonly layers: readonly { readonly mediaType: string; readonly digest: string; readonly size: number; readonly annotations?: object }[];
};

async function manifestOf(repository: string, tag: string): Promise<Manifest> {
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  return (await (await fetch(`http://${bed.host}/v2/${repository}/manifests/${tag}`, { headers: { accept } })).json()) as Manifest;
}

async function pushSignature(repository: string, digest: string, manifest: object): Promise<void> {
  const headers = { 'content-type': 'application/vnd.oci.image.manifest.v1+json' };
  const url = `http://${bed.host}/v2/${repository}/manifests/sha256-${digest.slice(7)}.sig`;
  assert.equal((await fetch(url, { method: 'PUT', headers, body: JSON.stringify(manifest) })).status, 201);
}

async function pushBlob(repository: string, blob: Buffer): Promise<void> {
  const url = `http://${bed.host}/v2/${repository}/blobs`;
  const begun = await fetch(`${url}/uploads/`, { method: 'POST' });
  const place = new URL(begun.headers.get('location') ?? '', url);
  place.searchParams.set('digest', digestOf(blob));
  assert.equal(
    (await fetch(place, { method: 'PUT', body: new Uint8Array(blob), headers: { 'content-type': 'application/octet-stream' } })).status,
    201,
  );
}
