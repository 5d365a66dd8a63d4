/**
 * Import and export of image archives: archives of Skopeo and umoci can be imported, they can read exported ones, and ids are preserved. Malicious archives
 * are rejected and leave nothing behind.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { exportImages } from '../../src/images/archive/export-images.ts';
import { importImages } from '../../src/images/archive/import-images.ts';
import type { Transfer } from '../../src/images/document/transfer.ts';
import { createSharedLayers } from '../../src/images/pull/shared-layers.ts';
import type { ImageRecord } from '../../src/images/store/image-record.ts';
import { verifyStore } from '../../src/images/store/verify.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { layerOf, layersOnDisk, type Node, platform, useImages } from '../support/image-bed.ts';
import { digestOf } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

const bed = useImages();
const base = layerOf({ 'etc/os': 'debian', 'bin/tool': 'old', noise: randomBytes(300_000) }, [{ path: 'etc/.wh.gone', content: '' }]);
const upper = layerOf({ 'bin/tool': 'new' }, [{ path: 'bin/tool', content: 'newer' }]);

type Options = { readonly name?: string; readonly signal?: AbortSignal; readonly onStart?: (progress: () => Transfer) => void };

function importArchive(node: Node, archive: Buffer | AsyncIterable<Buffer>, options: Options = {}): Promise<readonly ImageRecord[]> {
  const shared = createSharedLayers({ store: node.store, unpacker: bed.unpacker });
  const deps = { store: node.store, shared, unpacker: bed.unpacker, platform };
  return importImages(deps, { signal: new AbortController().signal, ...options, archive: Buffer.isBuffer(archive) ? inPieces(archive) : archive });
}

async function* inPieces(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += 99_999) yield bytes.subarray(at, at + 99_999);
}

async function exportArchive(node: Node, ...references: string[]): Promise<Buffer> {
  const { totalBytes, bytes } = exportImages({ store: node.store, unpacker: bed.unpacker }, references, new AbortController().signal);
  const pieces: Buffer[] = [];
  for await (const piece of bytes) pieces.push(piece);
  const archive = Buffer.concat(pieces);
  assert.equal(archive.length, totalBytes);
  return archive;
}

function scratch(name: string): string {
  const path = join(bed.directory, name);
  mkdirSync(path);
  return path;
}

const run = (cwd: string, command: string, ...args: string[]): string =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const skopeo = (cwd: string, ...args: string[]): string => run(cwd, 'skopeo', '--insecure-policy', ...args);

async function expectRejection(node: Node, archive: Buffer, code: BerthError['code'], message: RegExp, options: Options = {}): Promise<void> {
  const before = node.store.list();
  const layers = layersOnDisk(node.root);
  await assert.rejects(importArchive(node, archive, options), (error: unknown) => {
    assert.ok(error instanceof BerthError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.ok(error.message.startsWith('import ') && !error.message.includes('\n'), error.message);
    return true;
  });
  assert.deepEqual(node.store.list(), before);
  assert.deepEqual(layersOnDisk(node.root), layers, 'nothing is left');
}

test('Skopeo reads an exported archive in both formats, and importing it results in the same image', async () => {
  const directory = scratch('out');
  const pushed = await bed.push('team/out', '1', { layers: [base, upper, base], config: { Cmd: ['/bin/tool'] } });
  const node = await bed.node();
  const name = `${bed.host}/team/out:1`;
  const image = await node.pull(name);
  const archive = await exportArchive(node, name);
  assert.ok(archive.equals(await exportArchive(node, name)), 'exports are deterministic');
  writeFileSync(join(directory, 'a.tar'), archive);
  for (const from of ['oci-archive:a.tar', 'docker-archive:a.tar', `docker-archive:a.tar:${name}`]) {
    assert.equal(digestOf(Buffer.from(skopeo(directory, 'inspect', '--config', '--raw', from))), pushed.id, from);
    skopeo(directory, 'copy', from, 'dir:copied');
    assert.equal(readdirSync(join(directory, 'copied')).length, 2 + 3, 'manifest, version, config, two layers');
    rmSync(join(directory, 'copied'), { recursive: true });
  }
  const other = await bed.node();
  const [again, ...more] = await importArchive(other, archive);
  assert.deepEqual(more, []);
  assert.deepEqual([again?.id, again?.repoTags, again?.diffIds], [image.id, [name], image.diffIds]);
  const { damages, badImages, temporary, unrecorded } = await verifyStore(other.root);
  assert.deepEqual([damages, badImages, temporary, unrecorded], [[], [], [], []]);
  assert.ok((await exportArchive(other, image.id)).equals(archive));
});

test('an archive of several images contains shared layers once', async () => {
  const node = await bed.node();
  await bed.push('many/a', '1', { layers: [base] });
  await bed.push('many/b', '2', { layers: [base, upper] });
  const names = [`${bed.host}/many/a:1`, `${bed.host}/many/b:2`];
  for (const name of names) await node.pull(name);
  const archive = await exportArchive(node, ...names);
  assert.ok(archive.length < base.length * 2);
  const other = await bed.node();
  assert.deepEqual(
    (await importArchive(other, archive)).map(({ repoTags }) => repoTags[0]),
    names,
  );
  await expectRejection(await bed.node(), archive, 'INVALID_ARGUMENT', /contains 2 images; a name can be set only/, { name: 'x' });
});

test('archives of Skopeo are imported: OCI and Docker, uncompressed and compressed, with their names or a given one', async () => {
  const directory = scratch('in');
  const pushed = await bed.push('team/in', '1', { layers: [base, upper] });
  const from = `docker://${bed.host}/team/in:1`;
  skopeo(directory, 'copy', '--src-tls-verify=false', from, 'oci-archive:oci.tar:localhost/in:oci');
  skopeo(directory, 'copy', '--src-tls-verify=false', from, 'docker-archive:docker.tar:localhost/in:docker');
  for (const [file, tag] of [
    ['oci.tar', 'localhost/in:oci'],
    ['docker.tar', 'localhost/in:docker'],
  ] as const) {
    const tar = readFileSync(join(directory, file));
    for (const archive of [tar, gzipSync(tar), zstdCompressSync(tar)]) {
      const node = await bed.node();
      const [image] = await importArchive(node, archive);
      assert.deepEqual([image?.id, image?.repoTags], [pushed.id, [tag]]);
      assert.equal(image?.repoDigests.length, file === 'oci.tar' ? 1 : 0);
      assert.deepEqual(layersOnDisk(node.root), [...pushed.diffIds].sort());
      const [renamed] = await importArchive(node, archive, { name: 'given/name:x' });
      assert.deepEqual(renamed?.repoTags, [tag, 'docker.io/given/name:x']);
      assert.equal(node.store.find('given/name:x')?.id, pushed.id);
    }
  }
});

test('an umoci layout, which has a tag instead of a name, is imported without a name and identified by its id', async () => {
  const directory = scratch('umoci');
  writeFileSync(join(directory, 'layer.tar'), base);
  run(directory, 'umoci', 'init', '--layout', 'oci');
  run(directory, 'umoci', 'new', '--image', 'oci:latest');
  run(directory, 'umoci', 'raw', 'add-layer', '--image', 'oci:latest', 'layer.tar');
  // In another order: the index last.
  run(directory, 'tar', '-cf', 'oci.tar', '-C', 'oci', 'blobs', 'oci-layout', 'index.json');
  const node = await bed.node();
  const [image] = await importArchive(node, readFileSync(join(directory, 'oci.tar')));
  assert.deepEqual([image?.repoTags, image?.repoDigests], [[], []]);
  assert.deepEqual(image?.diffIds, [digestOf(base)]);
  assert.equal((await bed.node({ root: node.root })).store.find(image.id)?.id, image.id);
});

/** Returns an archive in Docker's format before OCI: a directory for each layer, and symlinks for repeated layers. */
function oldSave(
  layers: readonly Buffer[],
  change: { readonly config?: object; readonly manifest?: object } = {},
  more: readonly Member[] = [],
): Buffer {
  const { os, architecture } = platform;
  const config = Buffer.from(
    JSON.stringify({ os, architecture, config: {}, rootfs: { type: 'layers', diff_ids: layers.map(digestOf) }, ...change.config }),
  );
  const hex = digestOf(config).slice(7);
  const manifest = {
    Config: `${hex}.json`,
    RepoTags: ['old:1', 'old:2'],
    Layers: layers.map((_, position) => `l${position}/layer.tar`),
    ...change.manifest,
  };
  return makeTar([
    ...layers.map((layer, position): Member => {
      const first = layers.indexOf(layer);
      return first === position
        ? { path: `l${position}/layer.tar`, content: layer }
        : { path: `l${position}/layer.tar`, type: '2', link: `../l${first}/layer.tar` };
    }),
    { path: `${hex}.json`, content: config },
    { path: 'repositories', content: '{}' },
    ...more,
    { path: './manifest.json', content: JSON.stringify([manifest]) },
  ]);
}

test('archives of old Docker versions are imported, including symlinks and compressed layers', async () => {
  const node = await bed.node();
  const [image] = await importArchive(node, oldSave([base, upper, base]));
  assert.deepEqual(image?.repoTags, ['docker.io/library/old:1', 'docker.io/library/old:2']);
  assert.deepEqual(image?.diffIds, [base, upper, base].map(digestOf));
  const zipped = gzipSync(upper);
  const [other] = await importArchive(await bed.node(), oldSave([zipped], { config: { rootfs: { type: 'layers', diff_ids: [digestOf(upper)] } } }));
  assert.deepEqual(other?.layers, [{ diffId: digestOf(upper), digest: digestOf(zipped), compressedBytes: zipped.length }]);
});

type Blob = { readonly bytes: Buffer; readonly type: string };
const ociManifest = 'application/vnd.oci.image.manifest.v1+json';
const ociIndex = 'application/vnd.oci.image.index.v1+json';
const asDescriptor = ({ bytes, type }: Blob, more: object = {}) => ({ mediaType: type, digest: digestOf(bytes), size: bytes.length, ...more });
const asBlob = (document: object, type: string): Blob => ({ bytes: Buffer.from(JSON.stringify(document)), type });

function manifestFor(layer: Buffer, architecture = platform.architecture): readonly Blob[] {
  const config = asBlob(
    { os: 'linux', architecture, rootfs: { type: 'layers', diff_ids: [digestOf(layer)] } },
    'application/vnd.oci.image.config.v1+json',
  );
  const blob = { bytes: layer, type: 'application/vnd.oci.image.layer.v1.tar' };
  return [
    asBlob({ schemaVersion: 2, mediaType: ociManifest, config: asDescriptor(config), layers: [asDescriptor(blob)] }, ociManifest),
    config,
    blob,
  ];
}

function layoutOf(manifests: readonly object[], blobs: readonly Blob[]): Buffer {
  return makeTar([
    { path: 'index.json', content: JSON.stringify({ schemaVersion: 2, manifests }) },
    ...blobs.map(({ bytes }): Member => ({ path: `blobs/sha256/${digestOf(bytes).slice(7)}`, content: bytes })),
  ]);
}

test('the platform of the node is imported from a nested index and from several variants', async () => {
  const [mine, ...mineRest] = manifestFor(base);
  const [other, ...otherRest] = manifestFor(upper, 's390x');
  assert.ok(mine && other);
  const entries = [asDescriptor(other, { platform: { os: 'linux', architecture: 's390x' } }), asDescriptor(mine, { platform })];
  const index = asBlob({ schemaVersion: 2, mediaType: ociIndex, manifests: entries }, ociIndex);
  const annotations = { 'io.containerd.image.name': 'docker.io/library/nested:1', 'org.opencontainers.image.ref.name': '1' };
  const blobs = [mine, ...mineRest, other, ...otherRest, index];
  const nested = await importArchive(await bed.node(), layoutOf([asDescriptor(index, { annotations })], blobs));
  assert.deepEqual(
    nested.map(({ repoTags, diffIds }) => [repoTags, diffIds]),
    [[['docker.io/library/nested:1'], [digestOf(base)]]],
  );
  assert.deepEqual(nested[0]?.repoDigests, [`docker.io/library/nested@${digestOf(index.bytes)}`]);
  const flat = await importArchive(await bed.node(), layoutOf(entries, blobs));
  assert.deepEqual(
    flat.map(({ diffIds }) => diffIds),
    [[digestOf(base)]],
  );
  await expectRejection(await bed.node(), layoutOf([entries[0] ?? {}], blobs), 'NOT_FOUND', /s390x/);
});

test('malicious and corrupt archives are rejected and leave nothing behind', async () => {
  const node = await bed.node();
  const [manifest, config, layer] = manifestFor(base);
  assert.ok(manifest && config && layer);
  const complete = layoutOf([asDescriptor(manifest)], [manifest, config, layer]);
  const without = (absent: Blob) =>
    layoutOf(
      [asDescriptor(manifest)],
      [manifest, config, layer].filter((blob) => blob !== absent),
    );
  const swapped = (from: Blob, bytes: Buffer) => {
    const at = complete.indexOf(from.bytes);
    return Buffer.concat([complete.subarray(0, at), bytes, complete.subarray(at + bytes.length)]);
  };
  const cyclic = asBlob({ schemaVersion: 2, mediaType: ociIndex, manifests: [] }, ociIndex);
  const cases: readonly (readonly [what: string, archive: Buffer, code: BerthError['code'], message: RegExp])[] = [
    ['not a tar', randomBytes(5000), 'INVALID_ARGUMENT', /not a tar archive/],
    ['an empty archive', Buffer.alloc(0), 'INVALID_ARGUMENT', /empty archive/],
    ['no image', makeTar([{ path: 'x', content: 'y' }]), 'INVALID_ARGUMENT', /neither an index.json .* nor a manifest.json/],
    ['an empty index', layoutOf([], []), 'INVALID_ARGUMENT', /contains no image/],
    ['truncated', complete.subarray(0, 100_000), 'INVALID_ARGUMENT', /unexpected end/],
    ['truncated and compressed', gzipSync(complete).subarray(0, 100_000), 'INVALID_ARGUMENT', /archive/],
    ['a name with ..', makeTar([{ path: '../../index.json', content: '{}' }]), 'INVALID_ARGUMENT', /"\.\."/],
    ['a missing layer', without(layer), 'FAILED_PRECONDITION', /missing member/],
    ['a missing config', without(config), 'FAILED_PRECONDITION', /missing member/],
    ['another layer', swapped(layer, Buffer.from('x')), 'INVALID_ARGUMENT', /layer sha256:.*not a tar/],
    ['another config', swapped(config, Buffer.from(' ')), 'FAILED_PRECONDITION', /digest/],
    ['another manifest', swapped(manifest, Buffer.from(' ')), 'FAILED_PRECONDITION', /digest/],
    ['an index without images', layoutOf([asDescriptor(cyclic)], [cyclic]), 'NOT_FOUND', /no image for platform/],
    ['JSON of the wrong type', makeTar([{ path: 'index.json', content: '[]' }]), 'FAILED_PRECONDITION', /must be an object/],
    ['a huge index', makeTar([{ path: 'index.json', content: Buffer.alloc(9 << 20, ' ') }]), 'FAILED_PRECONDITION', /exceeds the limit/],
    [
      'circular symlinks',
      oldSave([base], { manifest: { Layers: ['a'] } }, [
        { path: 'a', type: '2', link: 'b' },
        { path: 'b', type: '2', link: 'a' },
      ]),
      'FAILED_PRECONDITION',
      /missing member "a"/,
    ],
    [
      'a symlink to the outside',
      oldSave([base], { manifest: { Layers: ['a'] } }, [{ path: 'a', type: '2', link: '../../../../etc/passwd' }]),
      'FAILED_PRECONDITION',
      /missing member/,
    ],
    [
      'a config with another digest',
      oldSave([base], { manifest: { Config: `${'0'.repeat(64)}.json` } }, [{ path: `${'0'.repeat(64)}.json`, content: config.bytes }]),
      'FAILED_PRECONDITION',
      /digest mismatch/,
    ],
    ['too few layers', oldSave([base], { manifest: { Layers: [] } }), 'FAILED_PRECONDITION', /1 layers, but the manifest has 0/],
    ['a layer with a path with ..', oldSave([layerOf({ '../up': 'evil' })]), 'INVALID_ARGUMENT', /"\.\."/],
  ];
  for (const [, archive, code, message] of cases) await expectRejection(node, archive, code, message);
  assert.deepEqual(node.store.list(), []);
  assert.deepEqual(layersOnDisk(node.root), []);
  for (const name of ['x@sha256:0', `x@${digestOf(base)}`, 'x/UPPER'])
    await assert.rejects(importArchive(node, complete, { name }), { code: 'INVALID_ARGUMENT' });
  assert.equal((await importArchive(node, complete)).length, 1);
});

test('a cancelled import leaves nothing behind, also when its sender is stalled', async () => {
  const node = await bed.node();
  const controller = new AbortController();
  const { promise: never } = Promise.withResolvers<void>();
  const complete = oldSave([base]);
  async function* stalled(): AsyncGenerator<Buffer> {
    yield complete.subarray(0, 200_000);
    setTimeout(() => controller.abort(new BerthError('CANCELLED', 'the caller has gone')), 50);
    await Promise.race([never, new Promise((resolve) => controller.signal.addEventListener('abort', resolve))]);
  }
  let progress: (() => Transfer) | undefined;
  const onStart = (now: () => Transfer): void => {
    progress = now;
  };
  await assert.rejects(importArchive(node, stalled(), { signal: controller.signal, onStart }), { code: 'CANCELLED', message: 'the caller has gone' });
  assert.equal(progress?.().receivedBytes, 200_000);
  assert.deepEqual(layersOnDisk(node.root), []);
});

test('an archive that does not fit on the disk is rejected, and its space is freed', async () => {
  const root = scratch('small');
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=100m', 'none', root]);
  try {
    const node = await bed.node({ root });
    async function* endless(): AsyncGenerator<Buffer> {
      yield makeTar([{ path: 'big', sizeBytes: 1e12 }], false);
      for (;;) yield Buffer.alloc(1 << 20);
    }
    await assert.rejects(importArchive(node, endless()), { code: 'RESOURCE_EXHAUSTED', message: /^import archive: archive.*does not fit/ });
    assert.deepEqual(layersOnDisk(root), []);
  } finally {
    execFileSync('umount', [root]);
  }
});

test('an export of a corrupt or missing layer, or of one without archive data, fails with the reason', async () => {
  await bed.push('team/bad', '1', { layers: [base] });
  const node = await bed.node();
  const name = `${bed.host}/team/bad:1`;
  await node.pull(name);
  const layer = join(node.root, 'layers', digestOf(base).slice(7));
  await assert.rejects(exportArchive(node, name, 'nothere'), { code: 'NOT_FOUND', message: 'image nothere is not on this node' });
  writeFileSync(join(layer, 'diff/etc/os'), 'debiaN');
  await assert.rejects(exportArchive(node, name), { code: 'FAILED_PRECONDITION', message: /^export: layer sha256:.*"etc\/os": checksum mismatch/ });
  const facts = JSON.parse(readFileSync(join(layer, 'layer.json'), 'utf8'));
  writeFileSync(join(layer, 'layer.json'), JSON.stringify({ ...facts, tarBytes: undefined }));
  await assert.rejects(exportArchive(await bed.node({ root: node.root }), name), {
    code: 'FAILED_PRECONDITION',
    message: /earlier version.*pull it again/,
  });
});

test('an export keeps its layers until it is complete, also when the image is removed', async () => {
  await bed.push('team/kept', '1', { layers: [base, upper] });
  const node = await bed.node();
  const name = `${bed.host}/team/kept:1`;
  await node.pull(name);
  const wanted = await exportArchive(node, name);
  const { bytes } = exportImages({ store: node.store, unpacker: bed.unpacker }, [name], new AbortController().signal);
  const pieces = [(await bytes.next()).value ?? Buffer.alloc(0)];
  await node.store.remove(name);
  for await (const piece of bytes) pieces.push(piece);
  assert.ok(Buffer.concat(pieces).equals(wanted));
  assert.deepEqual(layersOnDisk(node.root), []);
});
