import assert from 'node:assert/strict';
import { test } from 'node:test';
import { imageTable, verificationText } from './image-report.ts';

const intact = { images: 1, layers: 2, files: 3, bytes: 4_000_000, damages: [], badImages: [], unrecorded: [], temporary: [] };

test('imageTable() prints a row for each tag, or for each digest of an image without tags', () => {
  const table = imageTable([
    { id: `sha256:${'a'.repeat(64)}`, repo_tags: ['z:1', 'b:1'], repo_digests: ['z@sha256:1'], size: '2500000' },
    { id: `sha256:${'b'.repeat(64)}`, repo_digests: ['c@sha256:2'] },
  ]);
  assert.deepEqual(table.split('\n'), [
    'IMAGE       IMAGE ID      SIZE',
    'b:1         aaaaaaaaaaaa  2.5MB',
    'c@sha256:2  bbbbbbbbbbbb  0.0MB',
    'z:1         aaaaaaaaaaaa  2.5MB',
  ]);
});

test('verificationText() prints ok, or corrupt layers and the images that use them', () => {
  assert.equal(verificationText(intact), '1 image, 2 layers, 3 files and links, 4.0MB: ok');
  const text = verificationText({ ...intact, damages: [{ layer: 'abc', reasons: ['etc/os: is missing'], images: ['sha256:1'] }] });
  assert.deepEqual(text.split('\n').slice(0, 2), ['layer abc: etc/os: is missing', 'layer abc: used by image sha256:1']);
  assert.match(text, /: corrupt$/);
});
