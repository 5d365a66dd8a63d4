/**
 * Fuzzes untrusted image documents: manifests, indexes, configs, names, hosts.toml, challenges, tokens and archives. Each is parsed into valid values or
 * rejected with a BerthError.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { imagesOfLayout, imagesOfSave } from '../../src/images/archive/archive-index.ts';
import { importImages } from '../../src/images/archive/import-images.ts';
import { parseImageConfig, parseManifest, selectPlatform, toMediaType } from '../../src/images/document/manifest.ts';
import { formatReference, isDigest, parseReference } from '../../src/images/document/reference.ts';
import { createSharedLayers } from '../../src/images/pull/shared-layers.ts';
import { parseChallenges, parseTokenResponse, toTokenRequest } from '../../src/images/registry/challenges.ts';
import { parseHostsFile } from '../../src/images/registry/hosts.ts';
import { explanationOf } from '../../src/images/registry/registry-error.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { layerOf, layersOnDisk, openNode, platform } from '../support/image-bed.ts';
import { digestOf, useLayers } from '../support/layer-bed.ts';
import { mutated, pick } from '../support/mutate.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';
import { rounds } from './support/rounds.ts';

type Random = () => number;
const below = (random: Random, limit: number): number => Math.floor(random() * limit);

const types = [
  'oci.image.manifest.v1',
  'oci.image.index.v1',
  'oci.image.config.v1',
  'oci.empty.v1',
  'docker.distribution.manifest.v2',
  'docker.distribution.manifest.list.v2',
].map((name) => `application/vnd.${name}+json`);
const [manifestType = '', indexType = '', configType = ''] = types;
const layerType = 'application/vnd.oci.image.layer.v1.tar';
const layer = layerOf({ 'etc/os': 'x' });
const configText = JSON.stringify({
  ...platform,
  config: { Env: ['A=1'], User: '1:2', Cmd: ['x'], Labels: { a: 'b' } },
  rootfs: { type: 'layers', diff_ids: [digestOf(layer)] },
  history: [{}],
});
const describe = (mediaType: string, bytes: Buffer) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
const manifestText = JSON.stringify({
  schemaVersion: 2,
  mediaType: manifestType,
  config: describe(configType, Buffer.from(configText)),
  layers: [describe(layerType, layer)],
});
const indexText = JSON.stringify({
  schemaVersion: 2,
  manifests: [
    { ...describe(manifestType, Buffer.from(manifestText)), platform, annotations: { 'io.containerd.image.name': 'docker.io/library/x:1' } },
    { ...describe(manifestType, Buffer.from(manifestText)), platform: { os: 'unknown', architecture: 'unknown' } },
  ],
});

const odd: readonly unknown[] = [
  null,
  true,
  -1,
  0.5,
  1e300,
  2 ** 53,
  '',
  'x',
  '\0',
  '\u202e',
  'sha256:../..',
  [],
  [[]],
  {},
  { a: null },
  '/',
  '..',
  'x'.repeat(5000),
  ...types,
];
const keys = ['__proto__', 'constructor', 'mediaType', 'manifests', 'layers', 'config', 'size', 'digest', 'platform', 'toString', 'Env', 'urls'];

/** Returns the document with some values replaced, removed or duplicated. */
function mutateJson(random: Random, value: unknown): unknown {
  if (random() < 0.04) return pick(random, odd);
  if (Array.isArray(value))
    return value.flatMap((each) => Array.from({ length: pick(random, [1, 1, 1, 1, 1, 1, 0, 2]) }, () => mutateJson(random, each)));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(() => random() > 0.02);
  if (random() < 0.05) entries.push([pick(random, keys), pick(random, odd)]);
  const mutateKey = (key: string) => pick(random, [key, key.toUpperCase(), key.toLowerCase(), pick(random, keys)]);
  return Object.fromEntries(entries.map(([key, each]) => [random() < 0.05 ? mutateKey(key) : key, mutateJson(random, each)]));
}

function mutateDocument(random: Random, text: string): string {
  if (random() < 0.7) return JSON.stringify(mutateJson(random, JSON.parse(text)));
  return mutated(random, text, ['null', '[]', '{}', '"', ',', ':', '-1', '1e999', '\\u0000', '\ud800']);
}

/** Calls `read`. @returns its result, or undefined if it throws a BerthError with one of the codes and a printable one-line message. */
function parseOrReject<T>(codes: readonly BerthError['code'][], read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    assert.ok(error instanceof BerthError && codes.includes(error.code), `${error instanceof Error ? error.stack : error}`);
    assert.ok(!/[\n\u202e\0]/.test(error.message) && error.message.length < 2000, error.message);
    return undefined;
  }
}

test('mutated image documents are parsed or rejected', async (t) => {
  let parsed = 0;
  const count = await rounds(t, (random) => {
    const text = Buffer.from(mutateDocument(random, pick(random, [manifestText, indexText, configText])));
    for (const type of [pick(random, types), toMediaType(pick(random, [undefined, 'text/plain', ...types]), text)]) {
      const found = parseOrReject(['FAILED_PRECONDITION'], () => parseManifest(text, type));
      if (found === undefined) continue;
      parsed += 1;
      const all = found.kind === 'index' ? found.manifests : [found.config, ...found.layers];
      for (const { digest, sizeBytes } of all) assert.ok(isDigest(digest) && Number.isSafeInteger(sizeBytes) && sizeBytes >= 0);
      if (found.kind === 'index') parseOrReject(['NOT_FOUND'], () => selectPlatform(found, platform));
    }
    const config = parseOrReject(['FAILED_PRECONDITION'], () => parseImageConfig(text));
    assert.ok(config?.diffIds.every(isDigest) ?? true);
    parseOrReject(['FAILED_PRECONDITION'], () => imagesOfLayout(text));
    parseOrReject(['FAILED_PRECONDITION'], () => imagesOfSave(text));
    assert.ok(!explanationOf(text, []).includes('\n'));
    parseTokenResponse(text);
  });
  assert.ok(parsed > count / 20, `only ${parsed} of ${count} were parsed`);
});

test('mutated names, challenges and hosts.toml are parsed or rejected', async (t) => {
  const hosts =
    'server = "https://r.example:5000/v2"\n[host."https://m.example/x"]\ncapabilities = ["pull"]\nca = ["/a.pem"]\nskip_verify = true\n[host."https://m.example/x".header]\nx = ["y"]\n';
  await rounds(t, (random) => {
    const name = mutated(random, pick(random, ['busybox', 'localhost:5000/a/b:tag', `[::1]:5/x@${digestOf(layer)}`, 'docker.io/library/a_b-c.d:1']), [
      '/',
      ':',
      '@',
      '..',
      '//',
      '__',
      'A',
      '\n',
      '%2f',
      'ſ',
      '[',
      ']',
    ]);
    const reference = parseOrReject(['INVALID_ARGUMENT'], () => parseReference(name));
    if (reference !== undefined) {
      assert.deepEqual(formatReference(parseReference(formatReference(reference))), formatReference(reference));
      const url = new URL(`https://${reference.domain}/v2/${reference.path}/manifests/${reference.digest ?? reference.tag}`);
      assert.equal(url.pathname, `/v2/${reference.path}/manifests/${reference.digest ?? reference.tag}`);
      assert.ok(url.username === '' && url.search === '' && url.hash === '');
    }
    for (const challenge of parseChallenges(
      mutated(random, 'Basic realm="x", Bearer realm="https://a/t",service="r",scope="repository:x:pull"', [
        '"',
        '\\',
        '=',
        ',',
        'http://',
        '\0',
        'Bearer ',
        '@',
      ]),
    )) {
      const realm = toTokenRequest(challenge, 'https', 's')?.realm;
      assert.ok(realm === undefined || (realm.protocol === 'https:' && realm.username === ''));
    }
    const file = mutated(random, hosts, ['[', ']', '"', '=', '\n', '[[x]]', '{a=1}', '[host]', '__proto__ = 1\n', 'true', '1979-05-27', 'x@']);
    const found = parseOrReject(['FAILED_PRECONDITION'], () => parseHostsFile(file, 'r.example', '/c/hosts.toml'));
    assert.ok(found?.every(({ host, basePath }) => host !== '' && !basePath.includes('?')) ?? true);
  });
});

const bed = useLayers();

function randomArchive(random: Random): Buffer {
  const text = (original: string): string => (random() < 0.3 ? mutateDocument(random, original) : original);
  const blob = (bytes: Buffer): Member => ({
    path: `blobs/${digestOf(bytes).replace(':', '/')}`,
    content: random() < 0.1 ? bytes.subarray(below(random, bytes.length)) : bytes,
  });
  const config = Buffer.from(text(configText));
  const manifest = Buffer.from(
    random() < 0.3
      ? text(manifestText)
      : JSON.stringify({ schemaVersion: 2, config: describe(configType, config), layers: [describe(layerType, layer)] }),
  );
  const index = JSON.stringify({ schemaVersion: 2, manifests: [describe(pick(random, [manifestType, indexType]), manifest)] });
  const saved = JSON.stringify([
    {
      Config: `blobs/${digestOf(config).replace(':', '/')}`,
      RepoTags: ['x:1'],
      Layers: [pick(random, [`blobs/${digestOf(layer).replace(':', '/')}`, 'l', '../l'])],
    },
  ]);
  const members: Member[] = [
    blob(config),
    blob(manifest),
    blob(layer),
    { path: 'l', type: pick(random, ['1', '2']), link: pick(random, ['l', 'm', `blobs/${digestOf(layer).replace(':', '/')}`]) },
  ];
  if (random() < 0.7) members.push({ path: 'index.json', content: text(index) });
  if (random() < 0.7) members.push({ path: 'manifest.json', content: text(saved) });
  const tar = makeTar(members);
  for (let changes = random() < 0.2 ? 3 : 0; changes > 0; changes -= 1) tar[below(random, tar.length)] = below(random, 256);
  const archive = random() < 0.3 ? gzipSync(tar, { level: 1 }) : tar;
  return random() < 0.1 ? archive.subarray(0, below(random, archive.length)) : archive;
}

test('mutated archives are imported or rejected, and leave nothing but images', async (t) => {
  const node = await openNode(bed.newDir(), bed.unpacker);
  const deps = { store: node.store, shared: createSharedLayers({ store: node.store, unpacker: bed.unpacker }), unpacker: bed.unpacker, platform };
  const codes: readonly BerthError['code'][] = ['INVALID_ARGUMENT', 'FAILED_PRECONDITION', 'NOT_FOUND', 'UNIMPLEMENTED', 'RESOURCE_EXHAUSTED'];
  let imported = 0;
  const count = await rounds(t, async (random) => {
    const archive = randomArchive(random);
    const pieces = (async function* () {
      yield archive;
    })();
    const images = await importImages(deps, { archive: pieces, signal: new AbortController().signal }).catch((error: unknown) => {
      parseOrReject(codes, () => {
        throw error;
      });
    });
    for (const { id } of images ?? []) await node.store.remove(id);
    imported += images?.length ?? 0;
    assert.deepEqual([node.store.list(), layersOnDisk(node.root), readdirSync(join(node.root, 'images'))], [[], [], []]);
  });
  assert.ok(imported > count / 50, `only ${imported} of ${count} were imported`);
});
