/**
 * Layers that a fuzzer made: unpacked they are put together again to the bit, or refused with an error of our own; nothing is written outside, and both
 * decompressors agree.
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

const prey = join(directory, 'prey');
mkdirSync(prey);
writeFileSync(join(prey, 'secret'), 'untouched');

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
const links = ['a', 'a/b', '/', '.', '..', '../../..', prey, `../prey`, '/a/b/c', 'b', 'x'.repeat(300)];
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

function someMember(random: Random): Member {
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

function someArchive(random: Random): Buffer {
  const tar = makeTar(
    Array.from({ length: 1 + below(random, 12) }, () => someMember(random)),
    random() < 0.8,
  );
  if (random() < 0.1) tar[below(random, tar.length)] = below(random, 256);
  return random() < 0.1 ? tar.subarray(0, below(random, tar.length)) : tar;
}

const compressions: readonly ((tar: Buffer) => Buffer)[] = [(tar) => tar, (tar) => gzipSync(tar, { level: 1 }), (tar) => zstdCompressSync(tar)];

async function unpack(tar: Buffer, blob: Buffer, place: { filesDir: string; tarSplitFile: string }, piece: number): Promise<void> {
  const stream = openLayerStream({
    directory: place.filesDir,
    tarSplitFile: place.tarSplitFile,
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

async function assembled(tar: Buffer, place: { filesDir: string; tarSplitFile: string }): Promise<string> {
  const hash = createHash('sha256');
  const space = Buffer.alloc(777);
  await assembleLayer(
    { ...place, diffId: digestOf(tar) },
    { space: async () => space, filled: (length) => void hash.update(space.subarray(0, length)) },
  );
  return `sha256:${hash.digest('hex')}`;
}

test('a layer is whole and stays within its directory, or is refused', async (t) => {
  let accepted = 0;
  const count = await rounds(t, async (random) => {
    const tar = someArchive(random);
    const place = { filesDir: join(directory, 'layer/diff'), tarSplitFile: join(directory, 'layer/archive') };
    mkdirSync(place.filesDir, { recursive: true });
    try {
      await unpack(tar, pick(random, compressions)(tar), place, 1 + below(random, 3000));
      assert.equal(await assembled(tar, place), digestOf(tar));
      accepted += 1;
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code !== 'INTERNAL', String(error));
      assert.ok(!error.message.includes('\n') && error.message.length < 2000, error.message);
    } finally {
      rmSync(join(directory, 'layer'), { recursive: true, force: true });
    }
    assert.deepEqual(readdirSync(directory), ['prey']);
    assert.deepEqual([readdirSync(prey), readFileSync(join(prey, 'secret'), 'utf8')], [['secret'], 'untouched']);
  });
  assert.ok(accepted > count / 50, `only ${accepted} of ${count} were accepted`);
});

/** What comes out, or undefined for what is refused. */
async function decoded(isal: ReturnType<typeof openIsal>, blob: Buffer, piece: number): Promise<Buffer | undefined> {
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

test('damaged gzip and zstd is refused, or is the same to every decompressor', async (t) => {
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
    const found = await decoded(isal, cut, 1 + below(random, 4000));
    const other = await decoded(undefined, cut, 1 + below(random, 4000));
    if (found !== undefined && other !== undefined) assert.ok(found.equals(other), 'both take it, and see other bytes');
  });
});
