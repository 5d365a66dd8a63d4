/**
 * Fuzzes layers: each is unpacked and can be reassembled bit-exactly, or is rejected with a BerthError. Nothing is written outside the layer's directory,
 * and all decompressors produce the same bytes.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { assembleLayer } from '../../src/images/layer/assemble-layer.ts';
import { openDecoder } from '../../src/images/unpack/decoder.ts';
import { openLayerStream } from '../../src/images/unpack/layer-stream.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { openIsal } from '../../src/sys/library/libisal.ts';
import { digestOf } from '../support/layer-bed.ts';
import { pick } from '../support/mutate.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';
import { rounds } from './support/rounds.ts';

const directory = mkdtempSync(join(tmpdir(), 'berth-fuzz-'));
after(() => rmSync(directory, { recursive: true, force: true }));

/** A directory outside the layer, which must not be modified. */
const outside = join(directory, 'outside');
mkdirSync(outside);
writeFileSync(join(outside, 'secret'), 'untouched');

const names = [
  'a',
  'b',
  'c',
  'd/e',
  'a/b',
  'a/b/c',
  '.wh.a',
  'a/.wh.b',
  '.wh..wh..opq',
  'a/.wh..wh..opq',
  '.',
  '',
  '/',
  '..',
  'a/../b',
  'x\xff',
  './a//b/',
];
const ends = ['', '/', '/f', '/secret', '/.wh.secret'];
const links = ['a', 'a/b', '/', '.', '..', '../../..', outside, `../outside`, '/a/b/c', 'b', 'x'.repeat(300)];
const types = ['0', '0', '0', '1', '1', '2', '2', '3', '4', '5', '5', '6', '7', 'S', 'x', 'g', 'L', 'K', 'V', '\0'];
const paxKeys = [
  'path',
  'linkpath',
  'size',
  'mtime',
  'uid',
  'GNU.sparse.size',
  'GNU.sparse.map',
  'GNU.sparse.major',
  'SCHILY.xattr.trusted.overlay.opaque',
];
const paxValues = ['', 'a', 'a/b', '3', '-1', '1.5', '0,1', 'NaN', '9999999999999999', '../x', '\0'];

type Random = () => number;
const below = (random: Random, limit: number): number => Math.floor(random() * limit);

function randomMember(random: Random): Member {
  const type = pick(random, types);
  const content = 'xgLK'.includes(type) ? pick(random, [pick(random, names), '9 path=a\n', '7 a=bc\n', 'x']) : 'c'.repeat(below(random, 700));
  return {
    path: pick(random, names) + pick(random, ends),
    type,
    content: random() < 0.6 || 'xgLK'.includes(type) ? content : '',
    link: pick(random, links),
    mode: below(random, 0o10000),
    uid: below(random, 3),
    major: below(random, 2) === 0 ? 1 : below(random, 5000),
    minor: 3,
    ...(random() < 0.15 ? { pax: { [pick(random, paxKeys)]: pick(random, paxValues) } } : {}),
    ...(random() < 0.05 ? { patch: { at: below(random, 500), bytes: Buffer.from([below(random, 256)]) } } : {}),
  };
}

function randomArchive(random: Random): Buffer {
  const tar = makeTar(
    Array.from({ length: 1 + below(random, 12) }, () => randomMember(random)),
    random() < 0.8,
  );
  if (random() < 0.1) tar[below(random, tar.length)] = below(random, 256);
  return random() < 0.1 ? tar.subarray(0, below(random, tar.length)) : tar;
}

const compressions: readonly ((tar: Buffer) => Buffer)[] = [(tar) => tar, (tar) => gzipSync(tar, { level: 1 }), (tar) => zstdCompressSync(tar)];

async function unpack(tar: Buffer, blob: Buffer, layer: { filesDir: string; tarSplitFile: string }, piece: number): Promise<void> {
  const stream = openLayerStream({
    directory: layer.filesDir,
    tarSplitFile: layer.tarSplitFile,
    digest: digestOf(blob),
    diffId: digestOf(tar),
    sizeBytes: blob.length,
  });
  try {
    for (let at = 0; at < blob.length; at += piece) await stream.write(blob.subarray(at, at + piece));
    await stream.end();
  } finally {
    stream.close();
  }
}

/** Reassembles the layer. @returns its digest. */
async function reassemble(tar: Buffer, layer: { filesDir: string; tarSplitFile: string }): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(777);
  await assembleLayer(
    { ...layer, diffId: digestOf(tar) },
    { space: async () => buffer, filled: (length) => void hash.update(buffer.subarray(0, length)) },
  );
  return `sha256:${hash.digest('hex')}`;
}

test('a random layer is unpacked completely within its directory, or rejected', async (t) => {
  let accepted = 0;
  const count = await rounds(t, async (random) => {
    const tar = randomArchive(random);
    const layer = { filesDir: join(directory, 'layer/diff'), tarSplitFile: join(directory, 'layer/archive') };
    mkdirSync(layer.filesDir, { recursive: true });
    try {
      await unpack(tar, pick(random, compressions)(tar), layer, 1 + below(random, 3000));
      assert.equal(await reassemble(tar, layer), digestOf(tar));
      accepted += 1;
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code !== 'INTERNAL', String(error));
      assert.ok(!error.message.includes('\n') && error.message.length < 2000, error.message);
    } finally {
      rmSync(join(directory, 'layer'), { recursive: true, force: true });
    }
    assert.deepEqual(readdirSync(directory), ['outside']);
    assert.deepEqual([readdirSync(outside), readFileSync(join(outside, 'secret'), 'utf8')], [['secret'], 'untouched']);
  });
  assert.ok(accepted > count / 50, `only ${accepted} of ${count} were accepted`);
});

/** Decompresses the blob. @returns undefined if it is rejected. */
async function decode(isal: ReturnType<typeof openIsal>, blob: Buffer, piece: number): Promise<Buffer | undefined> {
  const output: Buffer[] = [];
  const decoder = openDecoder(isal, (bytes) => void output.push(Buffer.from(bytes)));
  try {
    for (let at = 0; at < blob.length; at += piece) await decoder.write(Buffer.from(blob.subarray(at, at + piece)));
    await decoder.end();
    return Buffer.concat(output);
  } catch (error) {
    assert.ok(error instanceof BerthError && !error.message.includes('\n'), String(error));
    return undefined;
  } finally {
    decoder.destroy();
  }
}

test('corrupt gzip and zstd data is rejected, or every decompressor returns the same bytes', async (t) => {
  const isal = openIsal();
  const plain = Buffer.from(Array.from({ length: 3000 }, (_, at) => (at * at) % 97));
  const parts = [
    gzipSync(plain),
    gzipSync(Buffer.alloc(0)),
    zstdCompressSync(plain),
    gzipSync(plain, { level: 0 }),
    Buffer.from([0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9]),
  ];
  await rounds(t, async (random) => {
    const blob = Buffer.concat(Array.from({ length: 1 + below(random, 3) }, () => pick(random, parts)));
    for (let changes = below(random, 4); changes > 0; changes -= 1) blob[below(random, blob.length)] = below(random, 256);
    const cut = random() < 0.2 ? blob.subarray(0, below(random, blob.length)) : blob;
    const withIsal = await decode(isal, cut, 1 + below(random, 4000));
    const withZlib = await decode(undefined, cut, 1 + below(random, 4000));
    if (withIsal !== undefined && withZlib !== undefined) assert.ok(withIsal.equals(withZlib), 'both accept the data, but return different bytes');
  });
});
