/**
 * Reassembles a layer's tar from its files: the result is bit-exact for any content, and corrupt files are reported instead of exported.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { BerthError } from '../../src/lib/errors.ts';
import { digestOf, toStream, useLayers } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

const bed = useLayers();

type Unpacked = { readonly filesDir: string; readonly tarSplitFile: string; readonly diffId: string };

async function unpack(tar: Buffer, blob = tar): Promise<Unpacked> {
  const directory = bed.newDir();
  const place = { filesDir: join(directory, 'diff'), tarSplitFile: join(directory, 'archive') };
  mkdirSync(place.filesDir);
  const job = { directory: place.filesDir, tarSplitFile: place.tarSplitFile, digest: digestOf(blob), diffId: digestOf(tar), sizeBytes: blob.length };
  // Odd sizes, so that headers and contents cross the boundaries.
  const layer = await bed.unpacker.unpack(job, async () => toStream(blob, 77_777), new AbortController().signal);
  assert.equal(layer.tarBytes, tar.length);
  return { ...place, diffId: job.diffId };
}

async function assembled(layer: Unpacked, signal = new AbortController().signal): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of bed.unpacker.assemble(layer, signal)) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function assertBitExact(name: string, tar: Buffer, blob = tar): Promise<void> {
  const again = await assembled(await unpack(tar, blob));
  assert.ok(again.equals(tar), `${name}: ${again.length} bytes of ${tar.length}`);
}

const big = Buffer.alloc(700_001, 'berth');
const plain: readonly Member[] = [
  { path: 'etc/', type: '5', mtime: 7 },
  { path: 'etc/os', content: 'berth' },
  { path: 'etc/empty', content: '' },
  { path: 'big', content: big },
  { path: 'link', type: '2', link: 'etc/os' },
  { path: 'hard', type: '1', link: 'big' },
  { path: 'pipe', type: '6' },
  { path: 'null', type: '3', major: 1, minor: 3 },
  { path: 'caf\xe9', content: 'no UTF-8', uid: 7, gid: 8, mode: 0o4755 },
];

const archives: Readonly<Record<string, Buffer>> = {
  'an empty archive': makeTar([]),
  'entries of every kind': makeTar(plain),
  'no end blocks': makeTar(plain, false),
  'long names and attributes in PAX headers': makeTar([
    { path: `${'d/'.repeat(120)}file`, content: 'x', pax: { mtime: '12.5', 'SCHILY.xattr.user.a': 'b', comment: 'kept' } },
    { path: 'g', type: 'g', content: '13 comment=x\n' },
    { path: 'after', content: 'y' },
  ]),
  'long names in GNU format': makeTar([
    { path: '././@LongLink', type: 'L', content: `${'n'.repeat(200)}\0` },
    { path: 'n'.repeat(100), content: 'long' },
  ]),
  'padding other than zeros': Buffer.concat([makeTar([{ path: 'f', content: 'abc' }], false).fill(0x2a, 515, 1024), Buffer.alloc(1024)]),
  'data after the end': Buffer.concat([makeTar(plain), Buffer.alloc(9000, 'rest')]),
  'whiteouts, also with content': makeTar([
    { path: 'a/.wh.gone', content: 'content of a whiteout' },
    { path: 'a/.wh..wh..opq', content: '' },
    { path: '.wh..wh.plnk/1.2', content: 'bookkeeping' },
  ]),
  'the same name many times': makeTar(Array.from({ length: 50 }, (_, number) => ({ path: 'same', content: `content ${number}` }))),
  'entries replaced by other types': makeTar([
    { path: 'a/b/c', content: 'first' },
    { path: 'a/b/d', content: 'second' },
    { path: 'a/b/c', content: 'third' },
    { path: 'a/b', content: 'a file now' },
    { path: 'a/b/e', content: 'a directory again' },
    { path: 'a', type: '2', link: 'real' },
    { path: 'real/', type: '5' },
    { path: 'a/through', content: 'a link' },
    { path: 'h', type: '1', link: 'real/through' },
    { path: 'real/through', content: 'other, but not h' },
    { path: 'same/', type: '5' },
    { path: 'same/x', content: 'kept' },
    { path: 'same/', type: '5' },
  ]),
  'non-canonical paths': makeTar([
    { path: './x//y/./z', content: '1' },
    { path: '/abs', content: '2' },
  ]),
};

for (const [name, tar] of Object.entries(archives)) test(`a layer is reassembled bit-exactly: ${name}`, () => assertBitExact(name, tar));

test('a layer is reassembled bit-exactly: several gzip members', async () => {
  const tar = makeTar(plain);
  await assertBitExact('members', tar, Buffer.concat([gzipSync(tar.subarray(0, 5000)), gzipSync(tar.subarray(5000))]));
});

test('a layer is reassembled bit-exactly: all formats of GNU tar, including sparse files', async () => {
  const directory = bed.newDir();
  writeFileSync(join(directory, 'sparse'), 'start');
  truncateSync(join(directory, 'sparse'), 3 << 20);
  writeFileSync(join(directory, 'sparse'), 'end', { flag: 'a' });
  for (const format of ['gnu', 'oldgnu', 'posix', 'ustar', 'v7']) {
    const isSparse = ['gnu', 'oldgnu', 'posix'].includes(format);
    const tar = execFileSync(
      'tar',
      ['-c', `--format=${format}`, ...(isSparse ? ['--sparse'] : []), '-C', directory, 'sparse', '-C', '/etc', 'passwd', 'apt'],
      {
        maxBuffer: 64 << 20,
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    );
    assert.ok(!isSparse || tar.length < 2 << 20, `${format} is sparse`);
    await assertBitExact(format, tar);
  }
});

test('a layer is reassembled bit-exactly: thousands of files of Debian', async () => {
  await assertBitExact(
    'doc',
    execFileSync('tar', ['-c', '-C', '/usr/share', 'doc', 'perl5'], { maxBuffer: 1 << 30, stdio: ['ignore', 'pipe', 'ignore'] }),
  );
});

test('corrupt files are reported and not exported', async () => {
  const tar = makeTar(plain);
  const kinds: readonly (readonly [(layer: Unpacked) => void, RegExp])[] = [
    [({ filesDir }) => writeFileSync(join(filesDir, 'etc/os'), 'bertH'), /^layer sha256:[0-9a-f]{64}: file "etc\/os": checksum mismatch$/],
    [({ filesDir }) => writeFileSync(join(filesDir, 'etc/os'), 'be'), /file "etc\/os": 2 bytes instead of 5$/],
    [({ filesDir }) => rmSync(join(filesDir, 'etc/os')), /open "etc\/os".*ENOENT/],
    [
      ({ filesDir }) => {
        rmSync(join(filesDir, 'etc/os'));
        symlinkSync('/etc/passwd', join(filesDir, 'etc/os'));
      },
      /open "etc\/os".*ELOOP/,
    ],
    [
      ({ filesDir }) => {
        renameSync(join(filesDir, 'etc'), join(filesDir, 'elsewhere'));
        symlinkSync('elsewhere', join(filesDir, 'etc'));
      },
      /open "etc\/os".*ELOOP/,
    ],
    [
      ({ filesDir }) => {
        rmSync(join(filesDir, 'etc/os'));
        execFileSync('mkfifo', [join(filesDir, 'etc/os')]);
      },
      /open "etc\/os"/,
    ],
    [({ tarSplitFile }) => truncateSync(tarSplitFile, 100), /tar metadata of the layer is corrupt/],
    [({ tarSplitFile }) => writeFileSync(tarSplitFile, withBitFlip(readFileSync(tarSplitFile))), /tar metadata of the layer is corrupt|diff id/],
    [({ tarSplitFile }) => rmSync(tarSplitFile), /ENOENT/],
  ];
  for (const [damage, message] of kinds) {
    const layer = await unpack(tar);
    damage(layer);
    await assert.rejects(assembled(layer), (error: unknown) => {
      assert.ok(error instanceof BerthError && error.code === 'FAILED_PRECONDITION', String(error));
      assert.match(error.message, message);
      return true;
    });
  }
});

test('a reader that stops or is cancelled leaves no work in progress', async () => {
  const layer = await unpack(makeTar([{ path: 'big', content: Buffer.alloc(16 << 20, 1) }]));
  for await (const piece of bed.unpacker.assemble(layer, new AbortController().signal)) {
    assert.ok(piece.length > 0);
    break;
  }
  const controller = new AbortController();
  const pieces = bed.unpacker.assemble(layer, controller.signal);
  await pieces.next();
  controller.abort(new BerthError('CANCELLED', 'enough'));
  await assert.rejects(pieces.next(), /enough/);
  assert.equal((await assembled(layer)).length, (16 << 20) + 512 + 1024);
});

function withBitFlip(bytes: Buffer): Buffer {
  const at = bytes.length >> 1;
  bytes[at] = (bytes[at] ?? 0) ^ 0xff;
  return bytes;
}
