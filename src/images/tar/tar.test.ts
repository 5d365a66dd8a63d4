import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Member, makeTar, paxRecords } from '../../../test/support/tar-maker.ts';
import { BerthError } from '../../lib/errors.ts';
import { type TarEntry, TarParser } from './tar.ts';

type Read = TarEntry & { readonly content: Buffer };

function readTar(archive: Buffer, pieceBytes = archive.length): Read[] {
  const entries: Read[] = [];
  let current: { entry: TarEntry; parts: Buffer[] } | undefined;
  const parser = new TarParser({
    entry: (entry) => {
      assert.equal(current, undefined);
      current = { entry, parts: [] };
    },
    content: (bytes) => current?.parts.push(Buffer.from(bytes)),
    hole: (sizeBytes) => {
      if (sizeBytes > 1 << 24) throw new BerthError('RESOURCE_EXHAUSTED', 'a hole too large for this test');
      current?.parts.push(Buffer.alloc(sizeBytes));
    },
    entryEnd: () => {
      assert.ok(current);
      const content = Buffer.concat(current.parts);
      assert.equal(content.length, current.entry.sizeBytes);
      entries.push({ ...current.entry, content });
      current = undefined;
    },
  });
  for (let at = 0; at < archive.length; at += pieceBytes) parser.push(archive.subarray(at, at + pieceBytes));
  parser.end();
  assert.equal(current, undefined);
  return entries;
}

function refused(archive: Buffer | readonly Member[], code: BerthError['code'], message: RegExp): void {
  const bytes = Buffer.isBuffer(archive) ? archive : makeTar(archive as readonly Member[]);
  assert.throws(
    () => readTar(bytes),
    (error: unknown) => error instanceof BerthError && error.code === code && message.test(error.message),
  );
}

/** Creates a tree with everything that the formats store differently: short and long names, sizes around a block, links. */
function makeTree(root: string, longNames: boolean): void {
  mkdirSync(join(root, 'dir'));
  const longDir = `dir/${'d'.repeat(90)}/${'e'.repeat(longNames ? 120 : 50)}`;
  mkdirSync(join(root, longDir), { recursive: true });
  for (const size of [0, 1, 511, 512, 513, 5000]) writeFileSync(join(root, `dir/f${size}`), Buffer.alloc(size, `${size}`));
  writeFileSync(join(root, longDir, longNames ? 'n'.repeat(200) : 'n'), 'long');
  linkSync(join(root, 'dir/f513'), join(root, 'dir/hard'));
  symlinkSync(longNames ? '../'.repeat(60) : 'f1', join(root, 'dir/soft'));
  execFileSync('mkfifo', [join(root, 'dir/pipe')]);
  utimesSync(join(root, 'dir/f1'), 1_234_567_890, 1_234_567_890);
}

function checkAgainstTree(entries: readonly Read[], root: string): void {
  for (const entry of entries) {
    const path = join(root, entry.path);
    const stat = lstatSync(path);
    assert.equal(entry.mode, stat.mode & 0o7777, entry.path);
    assert.equal(entry.uid, stat.uid);
    if (entry.kind !== 'link') assert.equal(entry.mtime.seconds, Math.floor(stat.mtimeMs / 1000), entry.path);
    if (entry.kind === 'file') assert.ok(entry.content.equals(readFileSync(path)), entry.path);
    if (entry.kind === 'symlink') assert.equal(entry.linkPath, readlinkSync(path));
    if (entry.kind === 'link') assert.equal(lstatSync(join(root, entry.linkPath)).ino, stat.ino);
    if (entry.kind === 'directory') assert.ok(stat.isDirectory());
    if (entry.kind === 'fifo') assert.ok(stat.isFIFO());
  }
}

for (const { format, longNames } of [
  { format: 'v7', longNames: false },
  { format: 'ustar', longNames: false },
  { format: 'oldgnu', longNames: true },
  { format: 'gnu', longNames: true },
  { format: 'posix', longNames: true },
]) {
  test(`TarParser reads archives that tar writes in ${format} format, in pieces of any size`, () => {
    const root = mkdtempSync(join(tmpdir(), 'berth-tar-'));
    try {
      makeTree(root, longNames);
      // v7 limits names to 100 bytes.
      const what = format === 'v7' ? ['dir/f0', 'dir/f1', 'dir/f511', 'dir/f512', 'dir/f513', 'dir/hard', 'dir/f5000', 'dir/soft'] : ['dir'];
      const archive = execFileSync('tar', ['-c', `--format=${format}`, '-C', root, ...what], { maxBuffer: 1 << 24 });
      const entries = readTar(archive);
      const names = execFileSync('tar', ['-t', '--quoting-style=literal'], { input: archive }).toString().trimEnd().split('\n');
      assert.deepEqual(
        entries.map((entry) => entry.path),
        names,
      );
      checkAgainstTree(entries, root);
      for (const pieceBytes of [1, 7, 511, 513, 1 << 16]) assert.deepEqual(readTar(archive, pieceBytes), entries);
    } finally {
      rmSync(root, { recursive: true });
    }
  });
}

test('TarParser reads PAX times with nanoseconds, also before the epoch', () => {
  const time = (mtime: string) => readTar(makeTar([{ path: 'f', pax: { mtime } }]))[0]?.mtime;
  assert.deepEqual(time('1234.000000001'), { seconds: 1234, nanoseconds: 1 });
  assert.deepEqual(time('1234.5'), { seconds: 1234, nanoseconds: 500_000_000 });
  assert.deepEqual(time('1234.1234567899'), { seconds: 1234, nanoseconds: 123_456_789 });
  assert.deepEqual(time('-1.25'), { seconds: -2, nanoseconds: 750_000_000 });
  assert.deepEqual(time('-3'), { seconds: -3, nanoseconds: 0 });
});

test('TarParser prefers PAX records to the header, and applies a global header to all later entries', () => {
  const global: Member = { path: 'g', type: 'g', content: paxRecords({ uid: '70', gname: 'x' }) };
  const entries = readTar(
    makeTar([
      global,
      { path: 'a', uid: 5 },
      { path: 'b', pax: { uid: '3000000', path: 'b/long', 'SCHILY.xattr.user.x': Buffer.from([0, 255, 61, 10]), 'SCHILY.xattr.user.y': '' } },
      { path: 'c', uid: 5, pax: { uid: '' } },
    ]),
  );
  assert.deepEqual(
    entries.map((entry) => [entry.path, entry.uid]),
    [
      ['a', 70],
      ['b/long', 3_000_000],
      ['c', 5],
    ],
  );
  assert.deepEqual(
    [...(entries[1]?.xattrs ?? [])],
    [
      ['user.x', Buffer.from([0, 255, 61, 10])],
      ['user.y', Buffer.alloc(0)],
    ],
  );
});

test('TarParser reads numbers in base 256', () => {
  const field = (width: number, value: bigint): Buffer => {
    const bytes = Buffer.alloc(width);
    for (let at = width - 1, rest = value; at >= 0; at -= 1, rest >>= 8n) bytes[at] = Number(rest & 0xffn);
    bytes[0] = (bytes[0] ?? 0) | 0x80;
    return bytes;
  };
  const [entry] = readTar(makeTar([{ path: 'f', patch: { at: 108, bytes: field(8, 4_000_000_000n) } }]));
  assert.equal(entry?.uid, 4_000_000_000);
  assert.equal(readTar(makeTar([{ path: 'f', patch: { at: 136, bytes: field(12, -2n) } }]))[0]?.mtime.seconds, -2);
  refused([{ path: 'f', patch: { at: 124, bytes: field(12, 1n << 60n) } }], 'INVALID_ARGUMENT', /53 bits/);
  refused([{ path: 'f', patch: { at: 124, bytes: field(12, -1n) } }], 'INVALID_ARGUMENT', /negative/);
  refused([{ path: 'f', patch: { at: 108, bytes: field(8, 0xffffffffn) } }], 'INVALID_ARGUMENT', /not a user or group id/);
});

test('TarParser ignores the size field of types without content', () => {
  const entries = readTar(
    makeTar([
      { path: 'd/', sizeBytes: 4096 },
      { path: 'l', type: '2', link: 'd', sizeBytes: 512 },
      { path: 'f', content: 'x' },
    ]),
  );
  assert.deepEqual(
    entries.map((entry) => [entry.path, entry.sizeBytes]),
    [
      ['d/', 0],
      ['l', 0],
      ['f', 1],
    ],
  );
});

test('TarParser preserves the bytes of names that are not UTF-8', () => {
  assert.equal(readTar(makeTar([{ path: 'a\xff\xfe' }]))[0]?.path, 'a\xff\xfe');
});

test('TarParser accepts a missing end-of-archive marker, and padding after it', () => {
  assert.equal(readTar(makeTar([{ path: 'f', content: 'x' }], false)).length, 1);
  assert.equal(readTar(Buffer.concat([makeTar([{ path: 'f' }]), Buffer.alloc(10_240)])).length, 1);
  assert.equal(readTar(Buffer.alloc(0)).length, 0);
});

test('TarParser refuses corrupt archives and other data', () => {
  refused(Buffer.alloc(512, 'x'), 'INVALID_ARGUMENT', /checksum/);
  const damaged = makeTar([{ path: 'f' }]);
  damaged[0] = 0x67;
  refused(damaged, 'INVALID_ARGUMENT', /checksum/);
  refused([{ path: 'f', patch: { at: 124, bytes: Buffer.from('0000000zz') } }], 'INVALID_ARGUMENT', /not an octal number/);
});

test('TarParser refuses a truncated archive', () => {
  const whole = makeTar([{ path: 'f', content: 'x'.repeat(600), pax: { uid: '1' } }], false);
  for (const length of [100, 600, 1024, 1600, 2100]) refused(whole.subarray(0, length), 'INVALID_ARGUMENT', /in the middle of an entry/);
  refused(makeTar([{ path: 'h', type: 'x', content: paxRecords({ uid: '1' }) }]), 'INVALID_ARGUMENT', /ends after an extended header/);
});

test('TarParser refuses malformed PAX records', () => {
  assert.equal(readTar(makeTar([{ path: 'h', type: 'x', content: '5 a=\n' }, { path: 'f' }])).length, 1);
  for (const content of ['6 a=\n', '99 a=b\n', '0 a=b\n', 'x a=b\n', '7 a=bc', '6 =ab\n', '6 abc\n', ' 5 a=\n', '05 a=\n']) {
    refused([{ path: 'h', type: 'x', content }, { path: 'f' }], 'INVALID_ARGUMENT', /PAX/);
  }
  refused([{ path: 'f', pax: { size: '-1' } }], 'INVALID_ARGUMENT', /PAX size/);
  refused([{ path: 'f', pax: { size: '99999999999999999999' } }], 'INVALID_ARGUMENT', /PAX size/);
  refused([{ path: 'f', pax: { mtime: 'now' } }], 'INVALID_ARGUMENT', /PAX mtime/);
  refused([{ path: 'f', pax: { path: 'a\0b' } }], 'INVALID_ARGUMENT', /NUL/);
});

test('TarParser refuses extended headers that are too large, and unknown types', () => {
  refused([{ path: 'h', type: 'x', content: '', sizeBytes: (1 << 20) + 1 }], 'INVALID_ARGUMENT', /extended header of 1048577 bytes/);
  refused([{ path: 'h', type: 'L', content: '', sizeBytes: 0o77777777777 }], 'INVALID_ARGUMENT', /extended header/);
  refused([{ path: 'v', type: 'V' }], 'UNIMPLEMENTED', /type "V"/);
});

const sparseFormats = ['gnu', 'posix --sparse-version=0.0', 'posix --sparse-version=0.1', 'posix --sparse-version=1.0'];

for (const format of sparseFormats) {
  test(`TarParser reads sparse files that tar writes in ${format} format, in pieces of any size`, () => {
    const root = mkdtempSync(join(tmpdir(), 'berth-tar-'));
    try {
      const expected = new Map<string, Buffer>();
      // Extents at the start, the middle and the end; more extents than fit into a header; none.
      for (const [name, pieces] of Object.entries({ few: [0, 20], many: Array.from({ length: 60 }, (_, at) => 2 * at), middle: [9], none: [] })) {
        const content = Buffer.alloc(128 * 4096 + (name === 'few' ? 100 : 0));
        for (const at of pieces) content.fill(`${at}`, at * 4096, at * 4096 + 4096);
        writeFileSync(join(root, name), '');
        execFileSync('truncate', ['-s', `${content.length}`, join(root, name)]);
        const file = openSync(join(root, name), 'r+');
        for (const at of pieces) writeSync(file, content, at * 4096, 4096, at * 4096);
        closeSync(file);
        expected.set(name, content);
      }
      const archive = execFileSync('tar', ['-c', '--sparse', ...`--format=${format}`.split(' '), '-C', root, ...expected.keys()]);
      assert.ok(archive.length < 128 * 4096 * 2, 'the archive is sparse');
      for (const pieceBytes of [1, 500, 4096, archive.length]) {
        const found = readTar(archive, pieceBytes);
        assert.deepEqual(
          found.map((entry) => entry.path),
          [...expected.keys()],
        );
        for (const entry of found)
          assert.ok(entry.content.equals(expected.get(entry.path) ?? Buffer.alloc(0)), `${entry.path} in pieces of ${pieceBytes}`);
      }
    } finally {
      rmSync(root, { recursive: true });
    }
  });
}

test('TarParser refuses sparse files whose map does not match their content', () => {
  const sparse = (map: string, size = '100'): Member[] => [
    { path: 's', content: 'x'.repeat(10), pax: { 'GNU.sparse.size': size, 'GNU.sparse.map': map } },
  ];
  assert.equal(
    readTar(makeTar(sparse('5,10')))[0]
      ?.content.toString('latin1')
      .indexOf('x'),
    5,
  );
  refused(sparse('5,9'), 'INVALID_ARGUMENT', /10 bytes of data, but 9 in its map/);
  refused(sparse('5,10', '14'), 'INVALID_ARGUMENT', /beyond the end/);
  refused(sparse('5,5,9,5'), 'INVALID_ARGUMENT', /overlapping extents/);
  refused(sparse('5,10,7'), 'INVALID_ARGUMENT', /invalid map/);
  refused(sparse('-5,10'), 'INVALID_ARGUMENT', /invalid map/);
  const inContent = (content: string, more = {}): Member[] => [
    { path: 's', content, pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '100', ...more } },
  ];
  refused(inContent('1\n0\n'), 'INVALID_ARGUMENT', /without a map/);
  refused(inContent('65537\n'), 'INVALID_ARGUMENT', /more than 65536 extents/);
  refused(inContent('1'.repeat(17)), 'INVALID_ARGUMENT', /invalid map/);
  refused(inContent('', { 'GNU.sparse.minor': '1' }), 'INVALID_ARGUMENT', /version "1"/);
});

/** A small and fast generator with the same results on every machine: mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4_294_967_296;
  };
}

test('TarParser throws only BerthErrors for corrupt archives, in pieces of any size', () => {
  const archive = makeTar([
    { path: 'd/' },
    { path: 'd/f', content: 'x'.repeat(700), pax: { mtime: '1.5', 'SCHILY.xattr.user.x': 'y' } },
    { path: 'n'.repeat(120), type: '2', link: 'l'.repeat(130) },
    { path: 'g', type: 'L', content: `${'long'.repeat(40)}\0` },
    { path: 'z', type: '3', major: 1, minor: 3 },
    { path: 's0', content: 'x'.repeat(10), pax: { 'GNU.sparse.size': '90', 'GNU.sparse.map': '5,4,20,6' } },
    {
      path: 's1',
      content: Buffer.concat([Buffer.from('2\n7\n3\n40\n2\n'), Buffer.alloc(501), Buffer.from('abcde')]),
      pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '50', 'GNU.sparse.name': 'sparse' },
    },
    oldSparseMember(),
  ]);
  assert.equal(readTar(archive).length, 7);
  let refusals = 0;
  for (let seed = 1; seed <= 3000; seed += 1) {
    const random = randomFrom(seed);
    const copy = Buffer.from(archive.subarray(0, random() < 0.2 ? Math.floor(random() * archive.length) : archive.length));
    for (let change = 0; change < 1 + random() * 4; change += 1) {
      const at = Math.floor(random() * copy.length);
      if (at >= copy.length) continue;
      copy[at] = Math.floor(random() * 256);
      // Fix the checksum of half of them.
      if (random() < 0.5) fixChecksum(copy, at - (at % 512));
    }
    try {
      readTar(copy, 1 + Math.floor(random() * 900));
    } catch (error) {
      assert.ok(error instanceof BerthError, `seed ${seed}: ${String(error)}`);
      refusals += 1;
    }
  }
  assert.ok(refusals > 100);
});

/** A file in the old GNU format: four extents in the header, a fifth in an extension block. */
function oldSparseMember(): Member {
  const extents = (offsets: readonly number[]) =>
    Buffer.concat(offsets.map((offset) => Buffer.from(`${offset.toString(8).padStart(11, '0')}\0${'2'.padStart(11, '0')}\0`)));
  const inHeader = Buffer.concat([extents([0, 10, 20, 30]), Buffer.from([1]), Buffer.from(`${(99).toString(8).padStart(11, '0')}\0`)]);
  const block = Buffer.alloc(512);
  extents([40]).copy(block);
  return { path: 's2', type: 'S', sizeBytes: 10, content: Buffer.concat([block, Buffer.from('0123456789')]), patch: { at: 386, bytes: inHeader } };
}

function fixChecksum(archive: Buffer, block: number): void {
  const header = archive.subarray(block, block + 512);
  if (header.length < 512) return;
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
}
