/**
 * Complete pulls of malicious images from malicious registries: each fails with a clear error, in time, with bounded memory, and leaves nothing behind.
 *
 * Single entries, headers and documents are tested in unpack.test.ts, registry*.test.ts and next to the parsers.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statfsSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { createUnpacker } from '../../src/images/unpack/unpack.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { digestOf, type FakeRegistry, sendError, startFakeRegistry } from '../support/fake-registry.ts';
import { layerOf, layersOnDisk, type Node, openNode, platform } from '../support/image-bed.ts';
import { copiesOf, useLayers, workerFile } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

execFileSync('ip', ['link', 'set', 'lo', 'up']);
const bed = useLayers();
const registry: FakeRegistry = await startFakeRegistry();
after(() => registry.close());

const manifestType = 'application/vnd.oci.image.manifest.v1+json';
const indexType = 'application/vnd.oci.image.index.v1+json';
const layerType = 'application/vnd.oci.image.layer.v1.tar';
const good = layerOf({ 'etc/os': 'good' });

/** The responses by path suffix: bytes, or a function that responds. */
type Content = Readonly<Record<string, Buffer | string | ((response: ServerResponse) => void)>>;

function serve(content: Content, mediaType = manifestType): void {
  registry.misbehave = (request, response) => {
    const found = Object.entries(content).find(([end]) => request.url?.endsWith(end));
    if (found === undefined) return sendError(response, 404, 'UNKNOWN', 'unknown');
    const [path, body] = found;
    if (typeof body === 'function') body(response);
    else response.writeHead(200, { 'content-type': path.startsWith('/manifests') ? mediaType : 'application/octet-stream' }).end(body);
    return true;
  };
}

const describe = (bytes: Buffer | string, mediaType: string) => ({ mediaType, digest: digestOf(bytes), size: Buffer.byteLength(bytes) });

/** Serves an image with these layers and a matching config as tag `1`. */
function imageOf(layers: readonly Buffer[], diffIds = layers.map(digestOf)): Content {
  const config = JSON.stringify({ ...platform, config: {}, rootfs: { type: 'layers', diff_ids: diffIds } });
  const described = layers.map((layer) => describe(layer, layerType));
  const manifest = JSON.stringify({ schemaVersion: 2, config: describe(config, 'application/vnd.oci.image.config.v1+json'), layers: described });
  return { '/manifests/1': manifest, [digestOf(config)]: config, ...Object.fromEntries(layers.map((layer) => [digestOf(layer), layer])) };
}

async function expectRejection(code: BerthError['code'], message: RegExp, node?: Node): Promise<void> {
  const { root, pull, store } = node ?? (await openNode(bed.newDir(), bed.unpacker, { keepUnfinishedMs: 60_000 }));
  const before = residentBytes();
  await assert.rejects(pull(`${registry.host}/evil:1`), (error) => {
    assert.ok(error instanceof BerthError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    assert.ok(!error.message.includes('\n') && error.message.length < 1000, error.message);
    return true;
  });
  assert.ok(residentBytes() - before < 150 << 20, `memory grew by ${(residentBytes() - before) >> 20} MiB`);
  assert.equal(store.list().length, 0);
  assert.deepEqual(layersOnDisk(root), []);
  assert.deepEqual(readdirSync(join(root, 'images')), []);
}

function residentBytes(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) << 10;
}

/** Sends the same bytes until the client disconnects. @returns a function that returns the number of sent bytes. */
function endless(
  piece: Buffer,
  headers: Record<string, string> = {},
): { readonly answer: (response: ServerResponse) => void; readonly sentBytes: () => number } {
  let sent = 0;
  const answer = (response: ServerResponse): void => {
    response.writeHead(200, headers);
    response.on('error', () => undefined);
    const more = (): void => {
      if (response.destroyed) return;
      sent += piece.length;
      response.write(piece, () => setImmediate(more));
    };
    more();
  };
  return { answer, sentBytes: () => sent };
}

test('a manifest of more than 100 MB is not read to its end', async () => {
  const stream = endless(Buffer.alloc(64 << 10, ' '), { 'content-type': manifestType });
  serve({ '/manifests/1': stream.answer });
  await expectRejection('FAILED_PRECONDITION', /exceeds 8388608 bytes/);
  assert.ok(stream.sentBytes() < 64 << 20, `${stream.sentBytes()} bytes were taken`);
});

test('an image with ten thousand layers is rejected from its manifest', async () => {
  const layer = describe(good, layerType);
  const config = describe('{}', 'application/vnd.oci.image.config.v1+json');
  serve({ '/manifests/1': JSON.stringify({ schemaVersion: 2, config, layers: Array.from({ length: 10_000 }, () => layer) }) });
  await expectRejection('FAILED_PRECONDITION', /10000 entries exceed the limit of 500/);
});

test('nested indexes, and one that references itself, are rejected', async () => {
  const content: Record<string, string> = {};
  let inner = describe('{}', manifestType);
  for (let depth = 0; depth < 6; depth += 1) {
    const text = JSON.stringify({ schemaVersion: 2, mediaType: indexType, manifests: [{ ...inner, platform }] });
    content[digestOf(text)] = text;
    content['/manifests/1'] = text;
    inner = describe(text, indexType);
  }
  serve(content, indexType);
  await expectRejection('FAILED_PRECONDITION', /more than 3 nested indexes/);

  // An index cannot contain its own digest: the registry sends content with a wrong digest.
  const circle = JSON.stringify({ schemaVersion: 2, mediaType: indexType, manifests: [{ ...describe('x', indexType), platform }] });
  serve({ '/manifests/1': circle, [digestOf('x')]: circle }, indexType);
  await expectRejection('FAILED_PRECONDITION', /digest/);
});

test('JSON values of the wrong type are rejected in any place', async () => {
  const wrong: readonly unknown[] = [
    null,
    [],
    7,
    'text',
    { schemaVersion: 2 },
    { schemaVersion: '2', layers: {} },
    { schemaVersion: 2, config: [], layers: 'x' },
  ];
  for (const document of wrong) {
    serve({ '/manifests/1': JSON.stringify(document) });
    await expectRejection('FAILED_PRECONDITION', /manifest/);
  }
  serve({ '/manifests/1': `${'['.repeat(200_000)}` });
  await expectRejection('FAILED_PRECONDITION', /manifest/);
  for (const config of [
    '[]',
    '{"rootfs":7}',
    '{"rootfs":{"type":"layers","diff_ids":[1]}}',
    '{"config":{"Env":{}},"rootfs":{"type":"layers","diff_ids":[]}}',
  ]) {
    const manifest = { schemaVersion: 2, config: describe(config, 'application/vnd.oci.image.config.v1+json'), layers: [describe(good, layerType)] };
    serve({ '/manifests/1': JSON.stringify(manifest), [digestOf(config)]: config });
    await expectRejection('FAILED_PRECONDITION', /config/);
  }
});

test('an endless layer is rejected at the size in the manifest', async () => {
  const stream = endless(Buffer.alloc(64 << 10));
  serve({ ...imageOf([good]), [digestOf(good)]: stream.answer });
  await expectRejection('FAILED_PRECONDITION', new RegExp(`${good.length} bytes`));
  assert.ok(stream.sentBytes() < 16 << 20, `${stream.sentBytes()} bytes were taken`);
});

test('a stalled or very slow registry does not block other pulls', async () => {
  const unpacker = createUnpacker({ workerFile, workersMax: 2, slowMs: 50 });
  const node = await openNode(bed.newDir(), unpacker);
  const slow = Array.from({ length: 8 }, (_, at) => layerOf({ [`slow${at}`]: 'x' }));
  const trickle = (response: ServerResponse): void => {
    response.on('error', () => undefined);
    const timer = setInterval(() => response.write('x'), 100);
    response.on('close', () => clearInterval(timer));
  };
  const image = imageOf([good]);
  serve({
    ...imageOf(slow),
    ...Object.fromEntries(slow.map((layer, at) => [digestOf(layer), at % 2 === 0 ? trickle : () => undefined])),
    ...image,
    '/manifests/1': imageOf(slow)['/manifests/1'] ?? '',
    '/manifests/2': image['/manifests/1'] ?? '',
  });
  const controller = new AbortController();
  const evil = node.pull(`${registry.host}/evil:1`, controller.signal);
  let isOver = false;
  evil.catch(() => {
    isOver = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 200));
  await node.pull(`${registry.host}/good:2`, AbortSignal.timeout(20_000));
  assert.equal(isOver, false, 'the slow pull is still running');
  controller.abort(new BerthError('CANCELLED', 'enough'));
  await assert.rejects(evil, { code: 'CANCELLED' });
  for (let waits = 0; waits < 100 && layersOnDisk(node.root).length > 1; waits += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(layersOnDisk(node.root), [digestOf(good)]);
  await unpacker.close();
});

test('URLs in a manifest are ignored: layers are fetched only from the registry', async () => {
  const other = await startFakeRegistry();
  try {
    const urls = [`http://${other.host}/layer`, 'file:///etc/passwd', 'http://169.254.169.254/latest/meta-data/'];
    const content = imageOf([good]);
    const manifest = JSON.parse(String(content['/manifests/1'])) as { config: object; layers: object[] };
    for (const mediaType of [
      'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
      'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
    ]) {
      const document = { ...manifest, config: { ...manifest.config, urls }, layers: manifest.layers.map((layer) => ({ ...layer, mediaType, urls })) };
      serve({
        ...content,
        '/manifests/1': JSON.stringify(document),
        [digestOf(good)]: (response) => void sendError(response, 404, 'BLOB_UNKNOWN', 'x'),
      });
      await expectRejection('NOT_FOUND', /not found/);
    }
    assert.deepEqual(other.requests, []);
  } finally {
    await other.close();
  }
});

test('the compression of a layer is detected from its bytes, not from its media type', async () => {
  for (const [compress, name] of [
    [gzipSync, '+zstd'],
    [zstdCompressSync, '+gzip'],
    [(bytes: Buffer) => bytes, '+gzip'],
  ] as const) {
    const blob = compress(good);
    const content = imageOf([blob], [digestOf(good)]);
    serve({ ...content, '/manifests/1': String(content['/manifests/1']).replace(layerType, `${layerType}${name}`) });
    const node = await openNode(bed.newDir(), bed.unpacker);
    const image = await node.pull(`${registry.host}/odd:1`);
    assert.deepEqual(readdirSync(node.store.rootOf(image).layerDirs[0] ?? ''), ['etc']);
  }
});

test('small documents that would use hundreds of megabytes in memory are rejected before they are parsed', async () => {
  for (const text of [
    `[${'[],'.repeat(2_700_000)}0]`,
    '['.repeat(4 << 20) + ']'.repeat(4 << 20),
    `{"a":${'{"":'.repeat(1_000_000)}0${'}'.repeat(1_000_001)}`,
  ]) {
    serve({ '/manifests/1': text });
    await expectRejection('FAILED_PRECONDITION', /manifest: more than/);
    const config = `{"history":${text}}`.slice(0, 8 << 20);
    const manifest = { schemaVersion: 2, config: describe(config, 'application/vnd.oci.image.config.v1+json'), layers: [] };
    serve({ '/manifests/1': JSON.stringify(manifest), [digestOf(config)]: config });
    await expectRejection('FAILED_PRECONDITION', /image config: more than/);
  }
  const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf('x'), size: 100 << 20 };
  serve({ '/manifests/1': JSON.stringify({ schemaVersion: 2, config, layers: [] }), [digestOf('x')]: endless(Buffer.alloc(64 << 10)).answer });
  await expectRejection('FAILED_PRECONDITION', /104857600 bytes exceeds the limit of 8388608/);
});

test('if one layer of an image is malicious, the other layers are removed', async () => {
  serve(imageOf([good, layerOf({ '../../up': 'evil' })]));
  await expectRejection('INVALID_ARGUMENT', /\.\./);
});

test('a tar with ten million entries is rejected at the limit', async () => {
  // Concatenated gzip members. The names create no files, otherwise the test would take hours.
  const entries = 100_000;
  const header = makeTar([{ path: '.wh..wh.plnk/x' }], false);
  const part = gzipSync(Buffer.alloc(header.length * entries, header), { level: 1 });
  const sizeBytes = part.length * 100;
  const before = residentBytes();
  const job = { directory: bed.newDir(), digest: digestOf('x'), diffId: digestOf('x'), sizeBytes };
  const parts = Array.from({ length: 100 }, () => part);
  const source = async () => Readable.from(copiesOf(parts), { objectMode: false });
  await assert.rejects(bed.unpacker.unpack(job, source, new AbortController().signal), /more than 4000000 entries/);
  assert.ok(residentBytes() - before < 150 << 20);
});

test('one terabyte in one file, in many files, or in no file is rejected before the disk is full', async () => {
  const directory = bed.newDir();
  const free = (): number => statfsSync(directory).bavail * statfsSync(directory).bsize;
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=160m', 'tmpfs', directory]);
  try {
    const before = free();
    const terabyte = { bytes: Buffer.from([0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]), at: 124 };
    const zeros = Buffer.alloc(64 << 20);
    const bombs: readonly (readonly Member[])[] = [
      [{ path: 'huge', patch: terabyte, content: zeros }],
      Array.from({ length: 40 }, (_, at) => ({ path: `f${at}`, content: zeros.subarray(0, 20 << 20) })),
      [
        { path: '.wh..wh.plnk/huge', patch: terabyte, content: zeros },
        ...Array.from({ length: 8 }, () => ({ path: '.wh..wh.orph/x', content: zeros })),
      ],
    ];
    for (const [at, members] of bombs.entries()) {
      const tar = makeTar(members);
      const blob = zstdCompressSync(tar);
      serve({ ...imageOf([blob], [digestOf(tar)]) });
      const root = join(directory, `node${at}`);
      mkdirSync(root);
      await expectRejection('RESOURCE_EXHAUSTED', /does not fit on the disk/, await openNode(root, bed.unpacker));
      assert.ok(before - free() < 1 << 20, 'nothing is left on the disk');
    }
  } finally {
    execFileSync('umount', [directory]);
  }
});

test('extended headers without an entry are rejected', async () => {
  const header = makeTar([{ path: 'x', type: 'x', content: `${'20 comment='.padEnd(19, 'x')}\n` }], false);
  const tar = Buffer.concat(Array.from({ length: 300_000 }, () => header));
  assert.match(await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: gzipSync }), /extended headers/);
});

test('ten thousand entries with the same name create one file', async () => {
  const member = makeTar([{ path: 'same', content: 'x' }], false);
  const { root, layer } = await bed.unpack(Buffer.concat(Array.from({ length: 10_000 }, () => member)), { compress: gzipSync });
  assert.deepEqual(readdirSync(root), ['same']);
  assert.ok(layer.inodes > 0);
});
