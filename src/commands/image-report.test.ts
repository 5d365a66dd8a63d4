import assert from 'node:assert/strict';
import { test } from 'node:test';
import { imageTable, verificationText } from './image-report.ts';

const whole = { images: 1, layers: 2, files: 3, bytes: 4_000_000, damages: [], badImages: [], unrecorded: [], temporary: [] };

test('imageTable() has a line for each name, and digests where there is no tag', () => {
  const table = imageTable([
    { id: `sha256:${'a'.repeat(64)}`, repo_tags: ['z:1', 'b:1'], repo_digests: ['z@sha256:1'], size: '2500000' },
    { id: `sha256:${'b'.repeat(64)}`, repo_digests: ['c@sha256:2'] },
  ]);
  assert.deepEqual(table.split('\n'), [
    'IMAGE       ID            SIZE',
    'b:1         aaaaaaaaaaaa  2.5 MB',
    'c@sha256:2  bbbbbbbbbbbb  0.0 MB',
    'z:1         aaaaaaaaaaaa  2.5 MB',
  ]);
});

test('verificationText() says whole, or what is not, with the images that have it', () => {
  assert.equal(verificationText(whole), '1 images, 2 layers, 3 files and links, 4.0 MB: whole');
  const text = verificationText({ ...whole, damages: [{ layer: 'abc', reasons: ['etc/os: has other bytes'], images: ['sha256:1'] }] });
  assert.deepEqual(text.split('\n').slice(0, 2), ['layer abc: etc/os: has other bytes', 'layer abc: images sha256:1']);
  assert.match(text, /: damaged$/);
});
