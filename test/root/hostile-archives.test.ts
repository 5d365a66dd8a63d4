/**
 * Small image archives that would need much memory, many open files or much work: each is rejected, or imported with normal resources.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { importImages } from '../../src/images/archive/import-images.ts';
import { createSharedLayers } from '../../src/images/pull/shared-layers.ts';
import type { ImageRecord } from '../../src/images/store/image-record.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { layerOf, layersOnDisk, type Node, openNode, platform } from '../support/image-bed.ts';
import { digestOf, useLayers } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

const bed = useLayers();
const types = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
};
const layer = layerOf({ f: 'x', noise: randomBytes(100_000) });

const blobPath = (bytes: Buffer): string => `blobs/${digestOf(bytes).replace(':', '/')}`;
const blobOf = (bytes: Buffer): Member => ({ path: blobPath(bytes), content: bytes });
const describe = (mediaType: string, bytes: Buffer) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
const configOf = (diffIds: readonly string[], padding = ''): Buffer =>
  Buffer.from(JSON.stringify({ ...platform, padding, config: {}, rootfs: { type: 'layers', diff_ids: diffIds } }));

/** Imports an archive and measures memory and open files of the process. */
async function importArchive(node: Node, archive: Buffer): Promise<{ images: readonly ImageRecord[]; grownBytes: number; files: number }> {
  const deps = { store: node.store, shared: createSharedLayers({ store: node.store, unpacker: bed.unpacker }), unpacker: bed.unpacker, platform };
  const pieces = (async function* () {
    yield archive;
  })();
  const before = residentBytes();
  let [peak, files] = [before, 0];
  const timer = setInterval(() => {
    peak = Math.max(peak, residentBytes());
    files = Math.max(files, readdirSync('/proc/self/fd').length);
  }, 5);
  try {
    const images = await importImages(deps, { archive: pieces, signal: new AbortController().signal });
    return { images, grownBytes: peak - before, files };
  } finally {
    clearInterval(timer);
    assert.ok(peak - before < 250 << 20, `memory grew by ${(peak - before) >> 20} MiB`);
  }
}

function residentBytes(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) << 10;
}

async function expectRejection(members: readonly Member[], code: BerthError['code'], message: RegExp): Promise<void> {
  const node = await openNode(bed.newDir(), bed.unpacker);
  await assert.rejects(importArchive(node, gzipSync(makeTar(members), { level: 1 })), (error) => {
    assert.ok(error instanceof BerthError, String(error));
    assert.match(error.message, message);
    assert.equal(error.code, code, error.message);
    return true;
  });
  assert.deepEqual([node.store.list(), layersOnDisk(node.root), readdirSync(`${node.root}/images`)], [[], [], []]);
}

test('a thousand names of one image with documents of several megabytes', async () => {
  const config = configOf([digestOf(layer)], 'x'.repeat(7 << 20));
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config: describe(types.config, config), layers: [describe(types.layer, layer)] }));
  const manifests = Array.from({ length: 1000 }, (_, at) => ({
    ...describe(types.manifest, manifest),
    annotations: { 'io.containerd.image.name': `x.example/n:${at}` },
  }));
  const members = [blobOf(config), blobOf(manifest), blobOf(layer), { path: 'index.json', content: JSON.stringify({ schemaVersion: 2, manifests }) }];
  await expectRejection(members, 'RESOURCE_EXHAUSTED', /manifests and configs exceed 67108864 bytes/);
});

test('five hundred layers that are the same compressed file are read one after another', async () => {
  const blob = gzipSync(layer);
  const config = configOf(Array.from({ length: 500 }, () => digestOf(layer)));
  const image = { Config: blobPath(config), RepoTags: [], Layers: Array.from({ length: 500 }, () => 'layer.tar.gz') };
  const members = [
    blobOf(config),
    { path: 'layer.tar.gz', content: blob },
    { path: 'manifest.json', content: JSON.stringify([image, image, image, image]) },
  ];
  const node = await openNode(bed.newDir(), bed.unpacker);
  const { images, files } = await importArchive(node, makeTar(members));
  assert.equal(images[0]?.diffIds.length, 500);
  assert.ok(files < 200, `${files} open files`);
});

test('too many names and too many members', async () => {
  const config = configOf([]);
  const image = (at: number) => ({ Config: blobPath(config), RepoTags: Array.from({ length: 600 }, (_, tag) => `x/y${at}:${tag}`), Layers: [] });
  await expectRejection(
    [blobOf(config), { path: 'manifest.json', content: JSON.stringify([image(0), image(1)]) }],
    'FAILED_PRECONDITION',
    /more than 1000 names/,
  );
  await expectRejection(
    Array.from({ length: 100_001 }, () => ({ path: './' })),
    'RESOURCE_EXHAUSTED',
    /more than 100000 members/,
  );
});
