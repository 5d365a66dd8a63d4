/**
 * Malicious layers: each entry is unpacked in a defined way or rejected, nothing is written outside the layer, and memory is bounded.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { constants, crc32, deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { BerthError } from '../../src/lib/errors.ts';
import { copiesOf, describeTree, digestOf, useLayers } from '../support/layer-bed.ts';
import { type Member, makeTar, paxRecords } from '../support/tar-maker.ts';

const bed = useLayers();

type TreeEntry = {
  mode: string;
  xattrs: string[];
  device?: bigint;
  target?: string;
  inode: string;
  owner: string;
  content?: string;
  mtimeNs?: bigint;
};
const unpackTree = async (members: readonly Member[]): Promise<Record<string, TreeEntry>> =>
  describeTree((await bed.unpack(makeTar(members))).root) as Record<string, TreeEntry>;
const expectRejection = async (members: readonly Member[], message: RegExp, code: BerthError['code'] = 'INVALID_ARGUMENT'): Promise<void> =>
  assert.match(await bed.rejection(makeTar(members), code), message);

function residentBytes(): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) << 10;
}

/** Unpacks a layer and checks the memory usage. @returns the message of the failure. */
async function unpackStream(pieces: readonly Buffer[], growthMax: number): Promise<string> {
  const sizeBytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const job = { directory: bed.newDir(), digest: digestOf(Buffer.from('x')), diffId: digestOf(Buffer.from('x')), sizeBytes };
  const before = residentBytes();
  let peak = before;
  const timer = setInterval(() => {
    peak = Math.max(peak, residentBytes());
  }, 50);
  try {
    await bed.unpacker.unpack(job, async () => Readable.from(copiesOf(pieces), { objectMode: false }), new AbortController().signal);
  } catch (error) {
    assert.ok(error instanceof BerthError, String(error));
    assert.ok(Math.max(peak, residentBytes()) - before < growthMax, `memory grew by ${(Math.max(peak, residentBytes()) - before) >> 20} MiB`);
    return error.message;
  } finally {
    clearInterval(timer);
  }
  assert.fail('the layer was accepted');
}

/** The digest is wrong, which is detected at the end: everything else was accepted. */
const takenToTheEnd = /digest mismatch/;

test('PAX headers of 1 MB each do not accumulate in memory, nor do global ones', async () => {
  const comment = paxRecords({ comment: 'x'.repeat((1 << 20) - 100) });
  const record = (at: number): Buffer => paxRecords({ [`key${1000 + at}`]: 'v' });
  const sizeBytes = record(0).length + comment.length;
  const rest = gzipSync(Buffer.concat([comment, Buffer.alloc(512 - (sizeBytes % 512)), makeTar([{ path: 'f' }], false)]), { level: 1 });
  for (const type of ['g', 'x']) {
    const header = makeTar([{ path: 'h', type, sizeBytes }], false);
    const pieces = Array.from({ length: 400 }, (_, at) => Buffer.concat([gzipSync(Buffer.concat([header, record(at)]), { level: 1 }), rest]));
    assert.match(await unpackStream(pieces, 150 << 20), takenToTheEnd);
  }
  await expectRejection([{ path: 'h', type: 'x', content: Buffer.alloc((1 << 20) + 1) }], /extended header of 1048577 bytes/);
  await expectRejection([{ path: 'h', type: 'L', sizeBytes: 2 ** 33 - 1 }], /extended header of 8589934591 bytes/);
});

test('attributes in a global header are ignored', async () => {
  const content = paxRecords({ ...Object.fromEntries(Array.from({ length: 100 }, (_, at) => [`SCHILY.xattr.user.a${at}`, 'v'])), mtime: '77' });
  const tree = await unpackTree([{ path: 'g', type: 'g', content }, { path: 'f' }]);
  assert.deepEqual(tree['f']?.xattrs, []);
  assert.equal(tree['f']?.mtimeNs, 77_000_000_000n);
});

test('paths that grow through symlinks are rejected above the limit of Linux', async () => {
  const long = Array.from({ length: 15 }, () => 'x'.repeat(200)).join('/');
  const tree = await unpackTree([{ path: `${long}/f`, content: 'x' }]);
  assert.ok(`${long}/f` in tree);
  await expectRejection(
    [{ path: `${long}/`, type: '5' }, { path: 's', type: '2', link: long }, { path: `s/${long}/f` }],
    /path of more than 3328 bytes/,
  );
  await expectRejection([{ path: `${'x'.repeat(200)}/`.repeat(19) }], /path of more than 3328 bytes/);
  await expectRejection([{ path: 'a/'.repeat(4096) }], /path of 8192 bytes/);
  await expectRejection([{ path: 'a/'.repeat(1000) }], /1000 directories deep/);
  assert.deepEqual(Object.keys(await unpackTree([{ path: './/./a//./b/.', type: '5' }, { path: '/' }])), ['', 'a', 'a/b']);
});

test('unusual whiteouts', async () => {
  for (const path of ['.wh.', 'a/.wh.', '.wh..', '.wh...', 'a/.wh...']) await expectRejection([{ path }], /names no file/);
  await expectRejection([{ path: '.wh../.wh.x/../../y' }], /"\.\."/);
  // With a slash it is not a whiteout, but a directory with an unusual name.
  assert.deepEqual(Object.keys(await unpackTree([{ path: '.wh.a/b' }])), ['', '.wh.a', '.wh.a/b']);
  assert.deepEqual(Object.keys(await unpackTree([{ path: 'd/.wh..wh..opq/', type: '5' }])), ['', 'd']);
  assert.deepEqual(Object.keys(await unpackTree([{ path: '.wh..wh..opq/deep/file', content: 'x' }])), ['']);
  // The type, content and link target of a whiteout are ignored.
  const odd = await unpackTree([
    { path: '.wh.a', type: '2', link: '/etc/passwd' },
    { path: '.wh.b', type: '3', major: 1, minor: 3 },
    { path: '.wh.c', content: 'content' },
    { path: '.wh.d', type: '1', link: '../../etc' },
  ]);
  for (const name of ['a', 'b', 'c', 'd']) assert.equal(odd[name]?.device, 0n, name);
});

test('hard links to entries that were replaced, come later, or hide something', async () => {
  const replaced = await unpackTree([{ path: 'd/f', content: 'old' }, { path: 'd', content: 'a file now' }, { path: 'x' }]);
  assert.deepEqual(Object.keys(replaced), ['', 'd', 'x']);
  await expectRejection([{ path: 'd/f' }, { path: 'd', content: 'x' }, { path: 'h', type: '1', link: 'd/f' }], /not in this layer/);
  await expectRejection([{ path: 'h', type: '1', link: 'later' }, { path: 'later' }], /not in this layer/);
  await expectRejection([{ path: 'd/f' }, { path: 'd', type: '1', link: 'd/f' }], /not in this layer|not a file/);
  await expectRejection([{ path: 'h', type: '1', link: '/' }], /hard link to the layer's root/);
  const opaque = await unpackTree([
    { path: 'd/f', content: 'kept' },
    { path: 'd/.wh..wh..opq' },
    { path: 'd/.wh.f' },
    { path: 'h', type: '1', link: 'd/f' },
  ]);
  assert.equal(opaque['h']?.inode, opaque['d/f']?.inode);
  const hidden = await unpackTree([{ path: '.wh.gone' }, { path: 'h', type: '1', link: 'gone' }]);
  assert.equal(hidden['h']?.device, 0n);
  const soft = await unpackTree([
    { path: 's', type: '2', link: '/etc/shadow' },
    { path: 'h', type: '1', link: 's' },
    { path: 's', content: 'x' },
  ]);
  assert.equal(soft['h']?.target, '/etc/shadow');
});

test('owner, mode and times of a directory are applied regardless of the position of its entry', async () => {
  const late = await unpackTree([
    { path: 'd/a/f', content: 'x' },
    { path: 'd/a/', mode: 0, mtime: 5, uid: 7 },
    { path: 'd/', mode: 0, mtime: 6 },
  ]);
  const early = await unpackTree([
    { path: 'd/', mode: 0, mtime: 6 },
    { path: 'd/a/', mode: 0, mtime: 5, uid: 7 },
    { path: 'd/a/f', content: 'x' },
  ]);
  for (const tree of [late, early]) {
    assert.deepEqual(
      [tree['d']?.mode, tree['d']?.mtimeNs, tree['d/a']?.owner, tree['d/a']?.mtimeNs],
      ['40000', 6_000_000_000n, '7:0', 5_000_000_000n],
    );
  }
});

test("an image cannot set overlayfs's internal attributes under any name", async () => {
  const names = ['opaque', 'redirect', 'metacopy', 'origin', 'nlink', 'whiteout', 'upper', 'uuid', 'overlay.opaque'];
  const overlay = ['trusted', 'user'].flatMap((prefix) => names.map((name) => `SCHILY.xattr.${prefix}.overlay.${name}`));
  const tree = await unpackTree([
    { path: 'd/', pax: Object.fromEntries(overlay.map((name) => [name, 'y'])) },
    { path: 's', type: '2', link: 'x', pax: Object.fromEntries(overlay.map((name) => [name, '/etc'])) },
  ]);
  assert.deepEqual([tree['d']?.xattrs, tree['s']?.xattrs], [[], []]);
  await expectRejection([{ path: 'f', pax: { 'SCHILY.xattr.user.x\0trusted.overlay.opaque': 'y' } }], /PAX key contains a NUL/);
});

test('errors of invalid attributes name the entry', async () => {
  await expectRejection([{ path: 'f', pax: { 'SCHILY.xattr.security.capability': 'not one' } }], /entry "f".*security\.capability.*EINVAL/);
  await expectRejection([{ path: 'f', pax: { 'SCHILY.xattr.': 'y' } }], /entry "f"/);
  await expectRejection([{ path: 'f', pax: { [`SCHILY.xattr.user.${'n'.repeat(300)}`]: 'y' } }], /entry "f"/);
  const message = await bed
    .rejection(makeTar([{ path: 'f', pax: { 'SCHILY.xattr.user.big': Buffer.alloc(100_000) } }]), 'INVALID_ARGUMENT')
    .catch(() => bed.rejection(makeTar([{ path: 'f', pax: { 'SCHILY.xattr.user.big': Buffer.alloc(100_000) } }]), 'RESOURCE_EXHAUSTED'));
  assert.match(message, /entry "f".*user\.big/);
  const { layer } = await bed.unpack(makeTar([{ path: 'f', pax: { 'SCHILY.xattr.nonsense': 'y' } }]));
  assert.deepEqual(layer.refusedXattrs, ['nonsense']);
});

test('minimum and maximum ids, times and device numbers', async () => {
  const base256 = (width: number, value: bigint): Buffer => {
    const bytes = Buffer.alloc(width);
    for (let at = width - 1, rest = BigInt.asUintN(8 * width, value); at >= 0; at -= 1, rest >>= 8n) bytes[at] = Number(rest & 0xffn);
    bytes[0] = (bytes[0] ?? 0) | 0x80;
    return bytes;
  };
  const tree = await unpackTree([
    { path: 'big', pax: { uid: '4294967294', gid: '2147483648' } },
    { path: 'past', patch: { at: 136, bytes: base256(12, -(2n ** 40n)) } },
    { path: 'future', pax: { mtime: '999999999999999.5' } },
  ]);
  assert.equal(tree['big']?.owner, '4294967294:2147483648');
  // Up to the maximum of the file system.
  assert.ok((tree['past']?.mtimeNs ?? 0n) < 0n && (tree['future']?.mtimeNs ?? 0n) > 2n ** 31n * 1_000_000_000n);
  for (const uid of ['4294967295', '-1', '1e3', ' 7', '99999999999999999999']) await expectRejection([{ path: 'f', pax: { uid } }], /uid/);
  for (const mtime of ['NaN', 'Infinity', '1e9', '--1', '9'.repeat(30)]) await expectRejection([{ path: 'f', pax: { mtime } }], /invalid PAX mtime/);
  await expectRejection([{ path: 'f', patch: { at: 108, bytes: base256(8, -1n) } }], /uid is negative/);
  await expectRejection([{ path: 'f', patch: { at: 124, bytes: base256(12, -1n) } }], /size is negative/);
  await expectRejection([{ path: 'f', patch: { at: 124, bytes: base256(12, 2n ** 80n) } }], /53 bits/);
  // 4097:1 would become 1:1, which is /dev/mem.
  await expectRejection([{ path: 'mem', type: '3', patch: { at: 329, bytes: base256(8, 4097n) }, minor: 1 }], /major number 4097/);
  await expectRejection([{ path: 'mem', type: '4', patch: { at: 337, bytes: base256(8, 2n ** 20n) } }], /minor number 1048576/);
  const { mem } = await unpackTree([{ path: 'mem', type: '3', major: 0xfff, patch: { at: 337, bytes: base256(8, 0xfffffn) } }]);
  assert.equal(mem?.device, 0xffffffffn, 'the largest device number');
});

test('strings with a NUL are rejected, or end at the NUL as in other tar programs', async () => {
  await expectRejection([{ path: 'f', pax: { path: 'etc/passwd\0.txt' } }], /path contains a NUL/);
  await expectRejection([{ path: 's', type: '2', pax: { linkpath: '/etc\0x' } }], /link target contains a NUL/);
  const { length } = Object.keys(
    await unpackTree([
      { path: 'L', type: 'L', content: 'name\0/../../evil\0' },
      { path: 'ignored', content: 'x' },
    ]),
  );
  assert.equal(length, 2);
});

test('the size in the extended header takes precedence and determines the position of the next header', async () => {
  const tree = await unpackTree([
    { path: 'f', sizeBytes: 1, content: 'four', pax: { size: '4' } },
    { path: 'g', content: 'after' },
  ]);
  assert.equal(tree['f']?.content, digestOf(Buffer.from('four')));
  assert.equal(tree['g']?.content, digestOf(Buffer.from('after')));
  await expectRejection([{ path: 'f', content: 'four', pax: { size: '4000' } }], /middle of an entry/);
  await expectRejection([{ path: 'f', content: 'four', pax: { size: '-1' } }], /PAX size/);
});

test('of concatenated archives only the first is unpacked; the rest, of any length, is part of the digest', async () => {
  const first = makeTar([{ path: 'first' }]);
  const { root } = await bed.unpack(Buffer.concat([first, makeTar([{ path: 'second' }])]));
  assert.deepEqual(readdirSync(root), ['first']);
  // As the index of an eStargz layer of 80,000 files, which BuildKit appends as an archive of its own.
  const rest = makeTar([{ path: 'stargz.index.json', content: Buffer.alloc(32 << 20, '{"name":"usr/lib/x","type":"reg"},') }]);
  const tar = Buffer.concat([first, rest]);
  const long = await bed.unpack(tar, { compress: () => Buffer.concat([gzipSync(first), gzipSync(rest)]) });
  assert.deepEqual(readdirSync(long.root), ['first']);
  assert.match(await bed.rejection(tar, 'FAILED_PRECONDITION', { diffId: digestOf(first), compress: () => gzipSync(tar) }), /diff id mismatch/);
});

test('gzip with ten thousand empty members, an endless name, or a corrupt member', async () => {
  const tar = makeTar([{ path: 'f', content: 'x' }]);
  const empty = gzipSync(Buffer.alloc(0));
  const many = Buffer.concat([...Array.from({ length: 10_000 }, () => empty), gzipSync(tar), ...Array.from({ length: 10_000 }, () => empty)]);
  assert.deepEqual(readdirSync((await bed.unpack(tar, { compress: () => many })).root), ['f']);
  const named = (name: Buffer): Buffer => {
    const plain = gzipSync(tar);
    const head = Buffer.from(plain.subarray(0, 10));
    head[3] = 8;
    return Buffer.concat([head, name, Buffer.from([0]), plain.subarray(10)]);
  };
  assert.deepEqual(readdirSync((await bed.unpack(tar, { compress: () => named(Buffer.alloc(8 << 20, 'n')) })).root), ['f']);
  assert.match(
    await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => named(Buffer.alloc(8 << 20, 'n')).subarray(0, 7 << 20) }),
    /unexpected end|end of file/,
  );
  // A member whose checksum or length is wrong.
  const wrong = gzipSync(tar);
  wrong[wrong.length - 6] = (wrong[wrong.length - 6] ?? 0) ^ 1;
  assert.match(await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => wrong }), /decompress/);
  assert.match(
    await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => Buffer.concat([wrong.subarray(0, 10), deflateRawSync(tar)]) }),
    /unexpected end|end of file|decompress/,
  );
});

test('after the last gzip member zeros are accepted, other data is rejected, and no decompressor waits for more', async () => {
  const tar = makeTar([{ path: 'f', content: 'x'.repeat(10_000) }]);
  const plain = gzipSync(tar);
  // With a header checksum, which only one of the decompressors supports.
  const head = Buffer.from(plain.subarray(0, 10));
  head[3] = 2;
  const sum = Buffer.alloc(2);
  sum.writeUInt16LE(crc32(head) & 0xffff);
  for (const blob of [plain, Buffer.concat([head, sum, plain.subarray(10)])]) {
    for (const pieceBytes of [65_536, 7]) {
      const followedBy = (rest: Buffer) => ({ pieceBytes, compress: () => Buffer.concat([blob, rest]) });
      for (const rest of [Buffer.alloc(1), Buffer.alloc(1000), Buffer.concat([Buffer.alloc(9), plain])]) {
        assert.deepEqual(readdirSync((await bed.unpack(tar, followedBy(rest))).root), ['f']);
      }
      for (const rest of [Buffer.from('rest'), plain.subarray(0, 5)]) await bed.rejection(tar, 'INVALID_ARGUMENT', followedBy(rest));
    }
  }
});

test('zstd with a window of gigabytes is rejected before memory is allocated', async () => {
  const tar = makeTar([{ path: 'f', content: 'x' }]);
  const before = residentBytes();
  // Magic, no single segment flag, a window of 2 GiB (exponent 21), a raw block.
  const frame = Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1 | ((tar.length & 0x1f) << 3), tar.length >> 5, tar.length >> 13]),
    tar,
  ]);
  assert.match(await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => frame }), /decompress.*(?:memory|window)/i);
  assert.ok(residentBytes() - before < 100 << 20);
  // A frame that requires a dictionary.
  const named = Buffer.from(zstdCompressSync(tar, { params: { [constants.ZSTD_c_contentSizeFlag]: 0 } }));
  named[4] = (named[4] ?? 0) | 1;
  await assert.rejects(bed.unpack(tar, { compress: () => Buffer.concat([named.subarray(0, 6), Buffer.from([9]), named.subarray(6)]) }), /decompress/);
});

test('trailing data after gzip or zstd data is rejected', async () => {
  const tar = makeTar([{ path: 'f', content: 'x' }]);
  for (const compress of [gzipSync, zstdCompressSync]) {
    const blob = compress(tar);
    assert.match(await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => Buffer.concat([blob, Buffer.from('trailing')]) }), /decompress/);
  }
});

test('overlayfs shows an entry that replaces one of another type in a lower layer: directory, file, symlink, directory with children', async () => {
  const steps: readonly (readonly Member[])[] = [
    [{ path: 'n/deep/old', content: '1' }],
    [{ path: 'n', content: 'a file' }],
    [{ path: 'n', type: '2', link: '/etc' }],
    [
      { path: 'n/', type: '5' },
      { path: 'n/new', content: '2' },
    ],
    [{ path: 'n/.wh.new' }, { path: 'n/.wh.never' }, { path: 'n/passwd', content: 'evil' }],
  ];
  const roots: string[] = [];
  for (const members of steps) {
    roots.unshift((await bed.unpack(makeTar(members))).root);
    const merged = bed.newDir();
    mkdirSync(join(bed.directory, 'empty'), { recursive: true });
    execFileSync('mount', ['-t', 'overlay', '-o', `ro,lowerdir=${[...roots, join(bed.directory, 'empty')].join(':')}`, 'overlay', merged]);
    try {
      const shown = describeTree(merged, { hasTimes: false }) as Record<string, TreeEntry>;
      const names = Object.keys(shown);
      if (roots.length === 1) assert.deepEqual(names, ['', 'n', 'n/deep', 'n/deep/old']);
      if (roots.length === 2) assert.match(shown['n']?.mode ?? '', /^100/);
      if (roots.length === 3) assert.equal(shown['n']?.target, '/etc');
      if (roots.length === 4) assert.deepEqual(names, ['', 'n', 'n/new']);
      if (roots.length === 5) assert.deepEqual(names, ['', 'n', 'n/passwd']);
    } finally {
      execFileSync('umount', [merged]);
    }
  }
});

test('a symlink in a lower layer does not redirect entries of a higher layer', async () => {
  const outside = bed.newDir();
  const lower = await bed.unpack(makeTar([{ path: 'etc', type: '2', link: outside }]));
  const upper = await bed.unpack(makeTar([{ path: 'etc/evil', content: 'x' }, { path: 'etc/.wh.other' }]));
  assert.deepEqual(readdirSync(outside), []);
  assert.deepEqual(readdirSync(lower.root), ['etc']);
  assert.ok(existsSync(join(upper.root, 'etc/evil')));
});

test('the tree equals that of GNU tar for unusual archives', async () => {
  const oddities: readonly Member[] = [
    { path: './', type: '5', mode: 0o711, mtime: 3 },
    { path: 'dup', content: 'first', mode: 0o600 },
    { path: 'dup', content: 'second', mode: 0o644, uid: 12, gid: 13 },
    { path: 'd/', mode: 0o2770, gid: 50, mtime: 9 },
    { path: 'd/f', content: 'in a directory with another group', gid: 0 },
    { path: 'd/h', type: '1', link: 'd/f' },
    { path: 's', type: '2', link: '../../../etc/passwd', uid: 5, gid: 6, mtime: 11 },
    { path: 'dangling', type: '2', link: 'no/where' },
    { path: 'h-soft', type: '1', link: 's' },
    { path: 'su', content: 'x', mode: 0o6755, uid: 1000, gid: 1001 },
    { path: 'sticky/', mode: 0o1777 },
    { path: 'caf\xe9\xff', content: 'bytes' },
    { path: 'new\nline\ttab', content: 'x' },
    { path: `${'p'.repeat(150)}/`, mtime: 4 },
    { path: `${'p'.repeat(150)}/${'q'.repeat(150)}`, content: 'long', pax: { mtime: '5.000000001' } },
    { path: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
    { path: 'disk', type: '4', major: 259, minor: 1000 },
    { path: 'pipe', type: '6', mode: 0o622 },
    { path: 'uid', pax: { uid: '3000000000', gid: '4000000000' } },
    { path: 'before', pax: { mtime: '-1.5' } },
    { path: 'capable', content: 'x', pax: { 'SCHILY.xattr.security.capability': Buffer.from('0100000200200000000000000000000000000000', 'hex') } },
    { path: 'noted', content: 'x', pax: { 'SCHILY.xattr.user.note': Buffer.from([0, 255, 10]) } },
    { path: 'empty' },
    { path: 'old-directory/', type: '\0' },
    { path: 'contiguous', type: '7', content: 'as a file' },
  ];
  const tar = makeTar(oddities);
  const expected = bed.newDir();
  execFileSync('tar', ['-x', '-p', '--warning=no-timestamp', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-C', expected], {
    input: tar,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  assert.deepEqual(describeTree((await bed.unpack(tar)).root), describeTree(expected));
});
