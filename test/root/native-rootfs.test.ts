/**
 * The native snapshotter, which copies layers: the tree equals that of overlayfs, with the ids of the user namespace if the pod has one.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { createFuseRootfs } from '../../src/engine/rootfs/fuse-rootfs.ts';
import { createNativeRootfs } from '../../src/engine/rootfs/native-rootfs.ts';
import { createOverlayRootfs, type RootfsDriver } from '../../src/engine/rootfs/overlay-rootfs.ts';
import { describeTree, useLayers } from '../support/layer-bed.ts';
import { type Member, makeTar } from '../support/tar-maker.ts';

const bed = useLayers();
const directory = mkdtempSync('/var/tmp/berth-native-');
after(() => rmSync(directory, { recursive: true, force: true }));

const lower: readonly Member[] = [
  { path: 'etc/', mode: 0o750, uid: 3, gid: 4, mtime: 1_111_111_111 },
  { path: 'etc/os', content: 'lower', pax: { mtime: '1234567890.123456789', 'SCHILY.xattr.user.note': 'kept' } },
  { path: 'etc/gone', content: 'hidden' },
  { path: 'etc/hard', type: '1', link: 'etc/os' },
  { path: 'hidden/below', content: 'x' },
  { path: 'replaced/dir/deep', content: 'x' },
  { path: 'file-then-dir', content: 'x' },
  { path: 'caf\xe9', content: 'not UTF-8' },
  { path: 'bin/suid', content: 's', mode: 0o6755, uid: 7, gid: 8 },
  { path: 'bin/link', type: '2', link: '/etc/passwd', uid: 9 },
  { path: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666 },
  { path: 'dev/disk', type: '4', major: 259, minor: 70_000 },
  { path: 'run/pipe', type: '6' },
];
const upper: readonly Member[] = [
  { path: 'etc/.wh.gone', content: '' },
  { path: 'etc/os', content: 'upper' },
  { path: 'hidden/.wh..wh..opq', content: '' },
  { path: 'hidden/new', content: 'y' },
  { path: 'replaced', content: 'a file now' },
  { path: 'file-then-dir/', mode: 0o700 },
  { path: 'bin/link/', mode: 0o755 },
  { path: 'far', uid: 70_000, gid: 70_000, content: 'far' },
];

async function layersOf(...layers: readonly (readonly Member[])[]): Promise<string[]> {
  const roots: string[] = [];
  for (const members of layers) roots.unshift((await bed.unpack(makeTar(members))).root);
  return roots;
}

/** Returns the tree as a container sees it, without its top directory. */
async function visibleTree(rootfs: RootfsDriver, id: string, layers: readonly string[]): Promise<Record<string, unknown>> {
  const fd = await rootfs.open(id, layers);
  const { '': _top, ...tree } = describeTree(`/proc/${process.pid}/fd/${fd}/.`);
  return tree;
}

test('a copied root equals that of overlayfs', async () => {
  const layers = await layersOf(lower, upper);
  const native = createNativeRootfs(join(directory, 'native'));
  const overlay = createOverlayRootfs(join(directory, 'overlay'));
  for (const rootfs of [native, overlay]) rootfs.create('c1', layers);
  const [copied, stacked] = [await visibleTree(native, 'c1', layers), await visibleTree(overlay, 'c1', layers)];
  assert.deepEqual(copied, stacked);
  assert.ok(Object.keys(copied).length > 15);
  for (const rootfs of [native, overlay]) await rootfs.remove('c1');
  assert.deepEqual(native.ids(), []);
});

test('a root of fuse-overlayfs equals that of overlayfs', async () => {
  const layers = await layersOf(lower, upper);
  const fuse = await createFuseRootfs(join(directory, 'fuse'), true);
  const overlay = createOverlayRootfs(join(directory, 'overlay'));
  for (const rootfs of [fuse, overlay]) rootfs.create('c1', layers);
  assert.deepEqual(await visibleTree(fuse, 'c1', layers), await visibleTree(overlay, 'c1', layers));
  for (const rootfs of [fuse, overlay]) await rootfs.remove('c1');
});

test('writes to a copied root do not affect layers or other containers', async () => {
  const layers = await layersOf(lower);
  const rootfs = createNativeRootfs(join(directory, 'two'));
  for (const id of ['a', 'b']) rootfs.create(id, layers);
  writeFileSync(`/proc/self/fd/${await rootfs.open('a', layers)}/etc/os`, 'changed');
  assert.equal(statSync(`/proc/self/fd/${await rootfs.open('b', layers)}/etc/os`).size, 5);
  assert.equal(statSync(join(layers[0] ?? '', 'etc/os')).size, 5);
  for (const id of ['a', 'b']) rootfs.release(id);
  // The next daemon uses the copy with the container's changes.
  const restarted = createNativeRootfs(join(directory, 'two'));
  assert.equal(statSync(`/proc/self/fd/${await restarted.open('a', layers)}/etc/os`).size, 7);
  for (const id of ['a', 'b']) await restarted.remove(id);
});

test("containers' files are not accessible to users of the host, who could execute setuid programs there", () => {
  createOverlayRootfs(join(directory, 'modes'));
  assert.equal(statSync(join(directory, 'modes/containers')).mode & 0o7777, 0o700);
});

test("a copied root has the ids of the pod's user namespace", async () => {
  const layers = await layersOf(lower, upper);
  const rootfs = createNativeRootfs(join(directory, 'ids'));
  const range = { hostId: 200_000, length: 65_536 };
  rootfs.create('c', layers, { ids: { uids: range, gids: range } });
  const root = `/proc/self/fd/${await rootfs.open('c', layers)}`;
  const owner = (path: string) => [lstatSync(`${root}/${path}`).uid, lstatSync(`${root}/${path}`).gid];
  assert.deepEqual(
    [owner('.'), owner('bin/suid'), owner('far')],
    [
      [200_000, 200_000],
      [200_007, 200_008],
      [65_534, 65_534],
    ],
  );
  assert.equal(lstatSync(`${root}/bin/suid`).mode & 0o7777, 0o6755);
  await rootfs.remove('c');
});

test('a copied root works on a file system that overlayfs cannot use as upper layer', async () => {
  const mount = join(directory, 'odd');
  execFileSync('mkdir', [mount]);
  execFileSync('mount', ['-t', 'overlay', '-o', `lowerdir=${bed.newDir()},upperdir=${bed.newDir()},workdir=${bed.newDir()}`, 'overlay', mount]);
  try {
    const layers = await layersOf(lower);
    const rootfs = createNativeRootfs(mount);
    rootfs.create('c', layers);
    assert.ok(readdirSync(`/proc/self/fd/${await rootfs.open('c', layers)}/etc`).includes('os'));
    await rootfs.remove('c');
  } finally {
    execFileSync('umount', [mount]);
  }
});
