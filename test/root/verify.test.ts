/**
 * Verification of the store: it is intact after pulls of all kinds of layers, and corrupt data is found.
 */
import assert from 'node:assert/strict';
import { chownSync, existsSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { verifyStore } from '../../src/images/store/verify.ts';
import { layerOf, useImages } from '../support/image-bed.ts';

const bed = useImages();
const layer = layerOf({ 'etc/os': 'berth', 'etc/other': 'o', 'bin/tool': Buffer.alloc(3 << 20, 'tool') }, [
  { path: 'bin/suid', content: 'x', mode: 0o4755, uid: 7, gid: 8 },
  { path: 'bin/link', type: '2', link: 'tool' },
  { path: 'bin/hard', type: '1', link: 'bin/tool' },
  { path: 'caf\xe9', content: 'not UTF-8' },
]);

function relink(path: string): void {
  rmSync(path);
  symlinkSync('other', path);
}

/** Entries that replace others of another type, go through symlinks, or have whiteouts. */
const odd = layerOf({ 'a/b/c': 'gone', x: 'first' }, [
  { path: 'x', content: 'second' },
  { path: 'a/b', content: 'a file now' },
  { path: 'real/', type: '5' },
  { path: 'way', type: '2', link: 'real' },
  { path: 'way/through', content: 'a link' },
  { path: 'y', type: '2', link: 'nowhere' },
  { path: 'y/', type: '5' },
  { path: 'y/z', content: 'in it' },
  { path: 'etc/.wh.other', content: '' },
  { path: 'etc/.wh..wh..opq', content: '' },
]);

test('a store is intact after a pull of unusual layers', async () => {
  await bed.push('whole', '1', { layers: [layer, odd] });
  const { root, pull } = await bed.node();
  await pull(`${bed.host}/whole:1`);
  const { images, layers, files, damages, badImages, unrecorded, temporary } = await verifyStore(root);
  assert.deepEqual(
    { images, layers, damages, badImages, unrecorded, temporary },
    { images: 1, layers: 2, damages: [], badImages: [], unrecorded: [], temporary: [] },
  );
  // For the second layer, including the three that later entries replaced.
  assert.equal(files, 6 + 8);
});

test('all kinds of corruption are found, and repaired by removing the image and pulling it again', async () => {
  const pushed = await bed.push('broken', '1', { layers: [layer] });
  const { root, pull, store } = await bed.node();
  const reference = `${bed.host}/broken:1`;
  const hex = pushed.diffIds[0]?.slice(7) ?? '';
  const at = (path: string) => join(root, 'layers', hex, 'diff', path);
  const kinds: readonly (readonly [string, () => void, RegExp])[] = [
    ['a byte', () => writeFileSync(at('etc/os'), 'bertH'), /^etc\/os: checksum mismatch$/],
    ['the length', () => writeFileSync(at('etc/os'), 'berth!'), /^etc\/os: 6 bytes instead of 5$/],
    ['a missing file', () => rmSync(at('etc/os')), /^etc\/os: .*ENOENT/],
    ['the owner', () => chownSync(at('bin/suid'), 0, 0), /^bin\/suid: mode 755 instead of 4755$/],
    ['a link', () => relink(at('bin/link')), /^bin\/link: link target changed$/],
    ['the record', () => writeFileSync(join(root, 'layers', hex, 'archive'), 'f 1 2'), /tar metadata of the layer is corrupt/],
  ];
  for (const [name, damage, message] of kinds) {
    await pull(reference);
    assert.deepEqual((await verifyStore(root)).damages, [], `before ${name}`);
    damage();
    const { damages } = await verifyStore(root);
    assert.equal(damages.length, 1, name);
    assert.deepEqual(damages[0]?.images, [pushed.id]);
    assert.match(damages[0]?.reasons[0] ?? '', message);
    await store.remove(reference);
    assert.equal(existsSync(at('')), false);
  }
});

test('records with missing layers, unreadable records and temporary files are reported', async () => {
  const pushed = await bed.push('gone', '1', { layers: [layer] });
  const { root, pull } = await bed.node();
  await pull(`${bed.host}/gone:1`);
  rmSync(join(root, 'layers', pushed.diffIds[0]?.slice(7) ?? ''), { recursive: true });
  writeFileSync(join(root, 'images', `${'0'.repeat(64)}.json`), '{');
  writeFileSync(join(root, 'layers/new-half'), '');
  writeFileSync(join(root, 'images/x.json.new'), '');
  const { badImages, temporary } = await verifyStore(root);
  assert.equal(badImages.length, 2);
  assert.ok(badImages.some((text) => text === `${pushed.id}: 1 layers are missing`));
  assert.deepEqual([...temporary].sort(), ['images/x.json.new', 'layers/new-half']);
});
