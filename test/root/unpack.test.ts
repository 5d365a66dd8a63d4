/**
 * Unpacking compared with GNU tar and umoci, and with malicious archives: nothing is written outside the layer.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32, gzipSync, zstdCompressSync } from 'node:zlib';
import { type LayerLimits, layerLimits } from '../../src/images/layer/layer-usage.ts';
import { LayerWriter } from '../../src/images/layer/layer-writer.ts';
import { noTarSplit } from '../../src/images/layer/tar-split.ts';
import { TarParser } from '../../src/images/tar/tar.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { describeTree, digestOf, toStream, useLayers } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

const bed = useLayers();

/** One entry of each kind that a layer may contain. */
function makeSource(root: string): void {
  mkdirSync(join(root, 'bin'));
  writeFileSync(join(root, 'bin/su'), 'setuid');
  chownSync(join(root, 'bin/su'), 12, 34);
  chmodSync(join(root, 'bin/su'), 0o4755);
  writeFileSync(join(root, 'bin/ping'), 'capable');
  execFileSync('setfattr', ['-n', 'security.capability', '-v', '0x0100000200200000000000000000000000000000', join(root, 'bin/ping')]);
  execFileSync('setfattr', ['-n', 'user.note', '-v', 'a note', join(root, 'bin')]);
  linkSync(join(root, 'bin/su'), join(root, 'bin/zz-same'));
  symlinkSync('su', join(root, 'bin/soft'));
  execFileSync('chown', ['-h', '77:88', join(root, 'bin/soft')]);
  linkSync(join(root, 'bin/soft'), join(root, 'bin/softer'));
  mkdirSync(join(root, 'tmp'));
  chmodSync(join(root, 'tmp'), 0o1777);
  mkdirSync(join(root, 'shared'));
  chownSync(join(root, 'shared'), 0, 50);
  chmodSync(join(root, 'shared'), 0o2775);
  writeFileSync(join(root, 'shared/roots-own'), '');
  mkdirSync(join(root, 'closed/inner'), { recursive: true });
  writeFileSync(join(root, 'closed/inner/file'), Buffer.alloc(700_000, 'q'));
  chmodSync(join(root, 'closed'), 0o000);
  execFileSync('mknod', ['-m', '666', join(root, 'null'), 'c', '1', '3']);
  execFileSync('mknod', [join(root, 'disk'), 'b', '259', '300']);
  execFileSync('mkfifo', ['-m', '622', join(root, 'pipe')]);
  writeFileSync(Buffer.concat([Buffer.from(`${root}/not-utf8-`), Buffer.from([0xff, 0xe4])]), 'bytes');
  mkdirSync(join(root, 'l'.repeat(200), 'm'.repeat(200)), { recursive: true });
  writeFileSync(join(root, 'l'.repeat(200), 'm'.repeat(200), 'n'.repeat(200)), 'long');
  execFileSync('touch', ['-h', '-d', '2001-02-03 04:05:06.123456789', join(root, 'bin/soft'), join(root, 'bin/ping')]);
  execFileSync('touch', ['-d', '1960-01-01 00:00:00.5', join(root, 'tmp')]);
  utimesSync(join(root, 'bin'), 1_000_000_000, 1_000_000_000);
  utimesSync(root, 1_100_000_000, 1_100_000_000);
}

const tarOf = (root: string, ...options: string[]): Buffer =>
  execFileSync('tar', ['-c', '--xattrs', '--xattrs-include=*', '--numeric-owner', ...options, '-C', root, '.'], { maxBuffer: 1 << 28 });

const halves = (compress: (bytes: Buffer) => Buffer) => (tar: Buffer) =>
  Buffer.concat([compress(tar.subarray(0, 3000)), compress(tar.subarray(3000))]);
const skippableFrame = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
const compressions: Readonly<Record<string, (tar: Buffer) => Buffer>> = {
  none: (tar) => tar,
  gzip: (tar) => gzipSync(tar),
  'gzip with a header checksum': (tar) => {
    const plain = gzipSync(tar);
    const head = Buffer.from(plain.subarray(0, 10));
    head[3] = 2;
    const sum = Buffer.alloc(2);
    sum.writeUInt16LE(crc32(head) & 0xffff);
    return Buffer.concat([head, sum, plain.subarray(10)]);
  },
  'gzip of several members': halves((bytes) => gzipSync(bytes)),
  zstd: (tar) => zstdCompressSync(tar),
  'zstd of several frames': (tar) => Buffer.concat([skippableFrame, halves((bytes) => zstdCompressSync(bytes))(tar), skippableFrame]),
};

for (const [name, compress] of Object.entries(compressions)) {
  test(`unpacking creates the same tree as GNU tar, compression: ${name}`, async () => {
    const source = bed.newDir();
    makeSource(source);
    const tar = tarOf(source, '--format=posix');
    const expected = bed.newDir();
    execFileSync('tar', ['-x', '-p', '--warning=no-timestamp', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-C', expected], { input: tar });
    const { root, layer } = await bed.unpack(tar, { compress });
    const tree = describeTree(root);
    assert.deepEqual(tree, describeTree(expected));
    assert.equal(layer.inodes, new Set(Object.values(tree).map((entry) => (entry as { inode: string }).inode)).size);
    assert.ok(layer.sizeBytes >= 700_000);
    assert.deepEqual(layer.refusedXattrs, []);
  });
}

test('unpacking creates the same tree as umoci, except for whiteouts in the format of overlayfs', async () => {
  const source = bed.newDir();
  makeSource(source);
  // umoci stores neither of these extended attributes.
  const tar = tarOf(source, '--format=posix', '--exclude=./null', '--exclude=./disk', '--sort=name');
  const directory = bed.newDir();
  writeFileSync(join(directory, 'layer.tar'), tar);
  const umoci = (...args: string[]) => execFileSync('umoci', args, { cwd: directory, stdio: 'pipe' });
  umoci('init', '--layout', 'oci');
  umoci('new', '--image', 'oci:test');
  umoci('raw', 'add-layer', '--image', 'oci:test', 'layer.tar');
  umoci('raw', 'unpack', '--image', 'oci:test', 'rootfs');
  const { root } = await bed.unpack(tar);
  assert.deepEqual(describeTree(root), describeTree(join(directory, 'rootfs')));
});

test('unpacking supports old formats and chunks of any size', async () => {
  const source = bed.newDir();
  makeSource(source);
  for (const format of ['gnu', 'oldgnu']) {
    const tar = execFileSync('tar', ['-c', `--format=${format}`, '-C', source, '.'], { maxBuffer: 1 << 28 });
    const expected = bed.newDir();
    execFileSync('tar', ['-x', '-p', '--warning=no-timestamp', '--numeric-owner', '-C', expected], { input: tar });
    const { root } = await bed.unpack(tar, { pieceBytes: 1021, compress: (bytes) => gzipSync(bytes) });
    assert.deepEqual(describeTree(root), describeTree(expected));
  }
});

const trustedOpaque = 'trusted.overlay.opaque=0x79';
type TreeEntry = { mode: string; xattrs: string[]; device?: bigint; target?: string; inode: string; owner: string };
const unpackTree = async (members: readonly Member[]): Promise<Record<string, TreeEntry>> => {
  const { root } = await bed.unpack(makeTar(members));
  return describeTree(root, { hasTimes: false }) as Record<string, TreeEntry>;
};

test('a whiteout becomes a character device 0:0, an opaque marker becomes an attribute of overlayfs', async () => {
  const tree = await unpackTree([
    { path: 'a/.wh.gone' },
    { path: 'b/' },
    { path: 'b/.wh..wh..opq' },
    { path: 'c/.wh..wh..opq' },
    { path: '.wh..wh.plnk/1.2' },
  ]);
  assert.equal(tree['a/gone']?.device, 0n);
  assert.match(tree['a/gone']?.mode ?? '', /^20/);
  assert.deepEqual(tree['b']?.xattrs, [trustedOpaque]);
  assert.deepEqual(tree['c']?.xattrs, [trustedOpaque]);
  assert.deepEqual(Object.keys(tree), ['', 'a', 'a/gone', 'b', 'c']);
});

test('a whiteout of a name in the same layer hides only lower layers', async () => {
  for (const members of [
    [{ path: 'd/' }, { path: 'd/new' }, { path: '.wh.d' }],
    [{ path: '.wh.d' }, { path: 'd/' }, { path: 'd/new' }],
    [{ path: '.wh.d' }, { path: 'd/new' }],
  ]) {
    const tree = await unpackTree(members);
    assert.deepEqual(Object.keys(tree), ['', 'd', 'd/new']);
    assert.deepEqual(tree['d']?.xattrs, [trustedOpaque]);
  }
  for (const members of [
    [{ path: 'f', content: 'x' }, { path: '.wh.f' }],
    [{ path: '.wh.f' }, { path: 'f', content: 'x' }],
  ]) {
    assert.match((await unpackTree(members))['f']?.mode ?? '', /^100644/);
  }
});

test('an opaque marker in the top directory is reported, because overlayfs ignores it there', async () => {
  assert.equal((await bed.unpack(makeTar([{ path: '.wh..wh..opq' }]))).layer.isRootOpaque, true);
  assert.equal((await bed.unpack(makeTar([{ path: 'a/.wh..wh..opq' }]))).layer.isRootOpaque, false);
});

test('overlayfs shows the layers as specified by the image', async () => {
  const below = await bed.unpack(makeTar([{ path: 'keep' }, { path: 'gone' }, { path: 'd/old' }, { path: 'e/old' }, { path: 'f/old' }]));
  const above = await bed.unpack(
    makeTar([{ path: '.wh.gone' }, { path: 'd/.wh..wh..opq' }, { path: 'd/new' }, { path: 'e/new' }, { path: '.wh.f' }]),
  );
  const merged = bed.newDir();
  execFileSync('mount', ['-t', 'overlay', '-o', `ro,lowerdir=${above.root}:${below.root}`, 'overlay', merged]);
  try {
    assert.deepEqual(readdirSync(merged).sort(), ['d', 'e', 'keep']);
    assert.deepEqual(readdirSync(join(merged, 'd')), ['new']);
    assert.deepEqual(readdirSync(join(merged, 'e')).sort(), ['new', 'old']);
  } finally {
    execFileSync('umount', [merged]);
  }
});

test('missing parents are created with owner root and mode 755, and late entries of parents are applied', async () => {
  const tree = await unpackTree([{ path: 'a/b/file' }, { path: 'c/file' }, { path: 'c/', mode: 0o700, uid: 5, gid: 6 }]);
  assert.equal(tree['a']?.mode, '40755');
  assert.equal(tree['a/b']?.owner, '0:0');
  assert.deepEqual([tree['c']?.mode, tree['c']?.owner], ['40700', '5:6']);
});

test('the last of two entries with the same name wins, regardless of their types', async () => {
  const kinds: Member[][] = [
    [{ path: 'n', content: 'file' }],
    [{ path: 'n/' }, { path: 'n/deep/file', content: 'inner' }],
    [{ path: 'n', type: '2', link: 'nowhere' }],
    [{ path: 'n', type: '3', major: 1, minor: 3 }],
    [
      { path: 'other', content: 'x' },
      { path: 'n', type: '1', link: 'other' },
    ],
  ];
  for (const first of kinds) {
    for (const second of kinds) {
      const tree = await unpackTree([...first, ...second]);
      const alone = await unpackTree(second);
      assert.deepEqual(tree['n'], alone['n']);
      assert.equal('n/deep/file' in tree, 'n/deep/file' in alone);
    }
  }
});

test('attributes of overlayfs and of security policies are not unpacked', async () => {
  const names = ['trusted.overlay.redirect', 'trusted.overlay.opaque', 'user.overlay.metacopy', 'security.selinux', 'security.ima'];
  const pax = Object.fromEntries(names.map((name) => [`SCHILY.xattr.${name}`, 'y']));
  const tree = await unpackTree([
    { path: 'd/', pax },
    { path: 'f', pax: { ...pax, 'SCHILY.xattr.user.mine': 'z' } },
  ]);
  assert.deepEqual(tree['d']?.xattrs, []);
  assert.deepEqual(tree['f']?.xattrs, ['user.mine=0x7a']);
});

/** A directory outside the layers that archives try to reach. */
function createOutsideDir(): { path: string; assertUnchanged: () => void } {
  const path = bed.newDir();
  writeFileSync(join(path, 'secret'), 'untouched');
  const before = describeTree(path);
  return { path, assertUnchanged: () => assert.deepEqual(describeTree(path), before) };
}

test('paths with .. are rejected and write nothing', async () => {
  const outside = createOutsideDir();
  const up = `../${outside.path.split('/').at(-1)}/secret`;
  for (const members of [
    [{ path: up, content: 'evil' }],
    [{ path: `a/../${up}`, content: 'evil' }],
    [{ path: 'hard', type: '1', link: up }],
    [{ path: `../${outside.path.split('/').at(-1)}/.wh.secret` }],
  ]) {
    assert.match(await bed.rejection(makeTar(members), 'INVALID_ARGUMENT'), /"\.\."/);
    outside.assertUnchanged();
  }
});

test('absolute paths are inside the layer', async () => {
  const outside = createOutsideDir();
  const { root } = await bed.unpack(makeTar([{ path: `${outside.path}/secret`, content: 'evil' }]));
  assert.equal(readFileSync(join(root, outside.path, 'secret'), 'utf8'), 'evil');
  outside.assertUnchanged();
});

test('entries through symlinks stay inside the layer', async () => {
  const outside = createOutsideDir();
  const deep = '../'.repeat(20);
  for (const link of [outside.path, `${deep}${outside.path.slice(1)}`, `/./..${outside.path}`]) {
    const through: Member[] = [
      { path: 'to', type: '2', link },
      { path: 'to/secret', content: 'evil' },
      { path: 'to/.wh.other' },
      { path: 'to/.wh..wh..opq' },
      { path: 'to/dir/', mode: 0o777 },
      { path: 'to/soft', type: '2', link: '/etc' },
    ];
    const { root } = await bed.unpack(makeTar(through));
    assert.equal(readFileSync(join(root, outside.path, 'secret'), 'utf8'), 'evil');
    assert.ok(lstatSync(join(root, 'to')).isSymbolicLink());
    outside.assertUnchanged();
  }
});

test('a symlink at the path of a file is replaced, not followed', async () => {
  const outside = createOutsideDir();
  const { root } = await bed.unpack(
    makeTar([
      { path: 'f', type: '2', link: `${outside.path}/secret` },
      { path: 'f', content: 'mine', mode: 0o777, uid: 9, pax: { 'SCHILY.xattr.user.x': 'y' } },
      { path: 'd', type: '2', link: outside.path },
      { path: 'd/', mode: 0o777, uid: 9 },
    ]),
  );
  assert.ok(lstatSync(join(root, 'f')).isFile());
  assert.ok(lstatSync(join(root, 'd')).isDirectory());
  outside.assertUnchanged();
});

test('owner, times and attributes are applied to the symlink, not to its target', async () => {
  const outside = createOutsideDir();
  await bed.unpack(
    makeTar([{ path: 'l', type: '2', link: `${outside.path}/secret`, uid: 9, mode: 0o777, pax: { 'SCHILY.xattr.trusted.x': 'y', mtime: '5' } }]),
  );
  outside.assertUnchanged();
});

test('a directory that is replaced by a symlink does not redirect later entries', async () => {
  const outside = createOutsideDir();
  const { root } = await bed.unpack(
    makeTar([
      { path: 'd/' },
      { path: 'd/one', content: '1' },
      { path: 'd', type: '2', link: outside.path },
      { path: 'd/secret', content: 'evil' },
      { path: 'd/e/', mtime: 77 },
    ]),
  );
  assert.equal(readFileSync(join(root, outside.path, 'secret'), 'utf8'), 'evil');
  outside.assertUnchanged();
});

test('hard links cannot reference files outside the layer', async () => {
  const outside = createOutsideDir();
  const secret = `${outside.path}/secret`;
  assert.match(await bed.rejection(makeTar([{ path: 'h', type: '1', link: secret }]), 'INVALID_ARGUMENT'), /not in this layer/);
  const through: Member[] = [
    { path: 'to', type: '2', link: outside.path },
    { path: 'h', type: '1', link: 'to/secret' },
  ];
  assert.match(await bed.rejection(makeTar(through), 'INVALID_ARGUMENT'), /not in this layer/);
  // The symlink itself is linked, and an entry with that name replaces it.
  const linked: Member[] = [
    { path: 'soft', type: '2', link: secret },
    { path: 'h', type: '1', link: 'soft' },
    { path: 'h', content: 'evil' },
  ];
  await bed.unpack(makeTar(linked));
  assert.match(await bed.rejection(makeTar([{ path: 'd/' }, { path: 'h', type: '1', link: 'd' }]), 'INVALID_ARGUMENT'), /which is not a file/);
  assert.match(await bed.rejection(makeTar([{ path: 'h', type: '1', link: 'h' }]), 'INVALID_ARGUMENT'), /not in this layer/);
  await bed.unpack(makeTar([{ path: 'h' }, { path: 'h', type: '1', link: './h' }]));
  outside.assertUnchanged();
});

test('circular symlinks and names that are too long are rejected', async () => {
  const circle: Member[] = [{ path: 'a', type: '2', link: 'b' }, { path: 'b', type: '2', link: 'a' }, { path: 'a/f' }];
  assert.match(await bed.rejection(makeTar(circle), 'INVALID_ARGUMENT'), /more than 40 symbolic links/);
  assert.match(await bed.rejection(makeTar([{ path: 'n'.repeat(65_536) }]), 'INVALID_ARGUMENT'), /path of 65536 bytes/);
  assert.match(await bed.rejection(makeTar([{ path: 'n'.repeat(300) }]), 'INVALID_ARGUMENT'), /name of 300 bytes/);
  assert.match(await bed.rejection(makeTar([{ path: 's', type: '2', link: 'n'.repeat(5000) }]), 'INVALID_ARGUMENT'), /ENAMETOOLONG/);
  assert.match(await bed.rejection(makeTar([{ path: 's', type: '2', link: '' }]), 'INVALID_ARGUMENT'), /ENOENT/);
  const deep = Array.from({ length: 40 }, (_, at): Member => ({ path: `${'d/'.repeat(at)}s`, type: '2', link: `${'d/'.repeat(400)}` }));
  assert.match(
    await bed.rejection(
      makeTar([{ path: `${'d/'.repeat(500)}s`, type: '2', link: 'e/'.repeat(600) }, { path: `${'d/'.repeat(500)}s/f` }, ...deep]),
      'INVALID_ARGUMENT',
    ),
    /directories deep/,
  );
});

test('a layer with a wrong digest, diff id or size is rejected', async () => {
  const tar = makeTar([{ path: 'f', content: 'x'.repeat(200_000) }]);
  const gzip = { compress: (bytes: Buffer) => gzipSync(bytes) };
  const wrong = digestOf(Buffer.from('other'));
  assert.match(await bed.rejection(tar, 'FAILED_PRECONDITION', { ...gzip, digest: wrong }), /: digest mismatch: expected sha256:/);
  assert.match(await bed.rejection(tar, 'FAILED_PRECONDITION', { ...gzip, diffId: wrong }), /: diff id mismatch: expected sha256:/);
  assert.match(await bed.rejection(tar, 'FAILED_PRECONDITION', { sizeBytes: 100 }), /exceeds the 100 bytes/);
  assert.match(await bed.rejection(tar, 'FAILED_PRECONDITION', { sizeBytes: tar.length + 1 }), /bytes instead of the/);
});

test('a truncated layer is rejected with every compression', async () => {
  const tar = makeTar([{ path: 'f', content: 'x'.repeat(200_000) }], false);
  for (const compress of Object.values(compressions)) {
    const bytes = compress(tar);
    for (const cut of [1, 10, Math.floor(bytes.length / 2)]) {
      const short = bytes.subarray(0, bytes.length - cut);
      const message = await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: () => short });
      assert.match(message, /in the middle|unexpected end|decompress|not a tar/);
    }
  }
});

test('an unknown compression is rejected by name', async () => {
  const tar = makeTar([{ path: 'f' }]);
  const piped = (program: string) => (bytes: Buffer) => execFileSync(program, ['-c'], { input: bytes });
  assert.match(await bed.rejection(tar, 'UNIMPLEMENTED', { compress: piped('xz') }), /compression xz/);
  assert.match(await bed.rejection(tar, 'UNIMPLEMENTED', { compress: piped('bzip2') }), /compression bzip2/);
  assert.match(await bed.rejection(Buffer.from('not a layer at all'.repeat(100)), 'INVALID_ARGUMENT'), /not a tar archive/);
  assert.match(
    await bed.rejection(tar, 'INVALID_ARGUMENT', { compress: (bytes) => Buffer.concat([gzipSync(bytes), Buffer.from('garbage')]) }),
    /decompress/,
  );
});

test('an error of the source fails the layer with its reason, and the worker continues with the next job', async () => {
  const job = { directory: bed.newDir(), digest: digestOf(Buffer.from('')), diffId: digestOf(Buffer.from('')), sizeBytes: 1 << 20 };
  const broken = async () => {
    const stream = toStream(makeTar([{ path: 'f', content: Buffer.alloc(1 << 20) }]), 1000, 1);
    setTimeout(() => stream.destroy(new BerthError('UNAVAILABLE', 'RegistryUnavailable: broken')), 20);
    return stream;
  };
  await assert.rejects(bed.unpacker.unpack(job, broken, new AbortController().signal), /^BerthError: RegistryUnavailable: broken$/);
  const unopened = async () => {
    throw new BerthError('NOT_FOUND', 'no such blob');
  };
  await assert.rejects(bed.unpacker.unpack(job, unopened, new AbortController().signal), /no such blob/);
  await bed.unpack(makeTar([{ path: 'f' }]));
});

test('a cancelled layer stops, closes its files, and releases the worker', async () => {
  const fdsBefore = readdirSync('/proc/self/fd').length;
  for (let turn = 0; turn < 5; turn += 1) {
    const controller = new AbortController();
    const reason = new BerthError('CANCELLED', 'the pull was cancelled');
    setTimeout(() => controller.abort(reason), 5 + turn * 10);
    const members = Array.from({ length: 3000 }, (_, at): Member => ({ path: `d${at % 7}/e/f${at}`, content: 'x'.repeat(600) }));
    const endless = { signal: controller.signal, pieceBytes: 4096, pauseMs: 1, compress: (bytes: Buffer) => gzipSync(bytes, { level: 0 }) };
    await assert.rejects(bed.unpack(makeTar(members), endless), (error) => error === reason);
  }
  await bed.unpack(makeTar([{ path: 'f' }]));
  assert.ok(readdirSync('/proc/self/fd').length <= fdsBefore + 2);
});

test('device nodes are created, skipped or rejected, depending on the node', () => {
  const write = (devices: 'keep' | 'skip' | 'refuse'): string[] => {
    const root = bed.newDir();
    const writer = new LayerWriter(root, layerLimits, () => 1e12, noTarSplit, devices);
    try {
      const parser = new TarParser(writer);
      const members: Member[] = [
        { path: 'dev/', mode: 0o755 },
        { path: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666 },
        { path: 'dev/sda', type: '4', major: 8, minor: 0 },
        { path: 'pipe', type: '6' },
        { path: '.wh.gone' },
      ];
      parser.push(makeTar(members));
      parser.end();
      writer.finish();
      return Object.keys(describeTree(root)).sort();
    } finally {
      writer.close();
    }
  };
  assert.deepEqual(write('keep'), ['', 'dev', 'dev/null', 'dev/sda', 'gone', 'pipe']);
  assert.deepEqual(write('skip'), ['', 'dev', 'gone', 'pipe'], 'whiteouts are not skipped like devices');
  assert.throws(() => write('refuse'), /entry "dev\/null": device nodes are refused on this node/);
});

test('limits on entries, memory and disk stop decompression bombs', () => {
  const write = (members: readonly Member[], limits: LayerLimits, freeBytes: number): void => {
    const writer = new LayerWriter(bed.newDir(), limits, () => freeBytes);
    try {
      const parser = new TarParser(writer);
      parser.push(makeTar(members));
      parser.end();
      writer.finish();
    } finally {
      writer.close();
    }
  };
  const many = Array.from({ length: 100 }, (_, at): Member => ({ path: `d${at}/` }));
  const wide = { ...layerLimits, entriesMax: 100, pathBytesMax: 1 << 20 };
  const isExhausted = (message: RegExp) => (error: unknown) =>
    error instanceof BerthError && error.code === 'RESOURCE_EXHAUSTED' && message.test(error.message);
  write(many, wide, 1e12);
  assert.throws(() => write([...many, { path: 'one more' }], wide, 1e12), isExhausted(/more than 100 entries/));
  assert.throws(() => write(many, { ...wide, pathBytesMax: 1000 }, 1e12), isExhausted(/too many directories/));
  assert.throws(() => write([{ path: 'big', sizeBytes: 2 ** 33 - 1 }], wide, 2 ** 32), isExhausted(/does not fit on the disk/));
});

test('a sparse file stays sparse on disk; one of 1 TB is rejected', async () => {
  const sparse = (size: number, map: string, content: string): Member => ({
    path: `s${size}`,
    content,
    pax: { 'GNU.sparse.size': `${size}`, 'GNU.sparse.map': map },
  });
  const gibibyte = 2 ** 30;
  const { root, layer } = await bed.unpack(makeTar([sparse(gibibyte, `${gibibyte - 8192},4096`, 'x'.repeat(4096)), { path: 'f', content: 'after' }]));
  const { size, blocks } = statSync(join(root, `s${gibibyte}`));
  assert.deepEqual([size, blocks * 512 <= 65_536], [gibibyte, true]);
  assert.ok(layer.sizeBytes <= 65_536);
  assert.equal(readFileSync(join(root, 'f'), 'utf8'), 'after');
  assert.match(await bed.rejection(makeTar([sparse(2 ** 40, '', '')]), 'RESOURCE_EXHAUSTED'), /does not fit on the disk|bytes of holes/);
  const many = Array.from({ length: 20 }, (_, at) => sparse(gibibyte + at, '', ''));
  assert.match(await bed.rejection(makeTar(many), 'RESOURCE_EXHAUSTED'), /more than 8589934592 bytes of holes/);
});

test('removing a missing tree succeeds', async () => {
  const { root } = await bed.unpack(makeTar([{ path: 'a/b/c/f' }, { path: 'l', type: '2', link: '/etc' }]));
  await bed.unpacker.remove(root);
  assert.equal(existsSync(root), false);
  await bed.unpacker.remove(root);
});
