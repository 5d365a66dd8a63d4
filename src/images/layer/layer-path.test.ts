import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { toCleanPath, toLayerPath } from './layer-path.ts';

const refusesWith = (path: string, message: RegExp): void =>
  assert.throws(
    () => toLayerPath(path),
    (error: unknown) =>
      error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && message.test(error.message) && !error.message.includes('\n'),
  );

test('toLayerPath() splits paths and removes redundant slashes and dots', () => {
  for (const path of ['a/b', './a/b', '/a/b', 'a//b/', 'a/./b', '//a/b//.'])
    assert.deepEqual(toLayerPath(path), { kind: 'node', parent: 'a', name: 'b' });
  for (const path of ['', '.', './', '/', '//.']) assert.deepEqual(toLayerPath(path), { kind: 'root' });
});

test('toLayerPath() recognizes whiteouts, opaque directories and metadata of aufs', () => {
  assert.deepEqual(toLayerPath('a/.wh.b'), { kind: 'whiteout', parent: 'a', name: 'b' });
  assert.deepEqual(toLayerPath('.wh..b'), { kind: 'whiteout', parent: '', name: '.b' });
  assert.deepEqual(toLayerPath('a/.wh..wh..opq'), { kind: 'opaque', parent: 'a' });
  assert.deepEqual(toLayerPath('.wh..wh..opq'), { kind: 'opaque', parent: '' });
  for (const path of ['.wh..wh.plnk/12.34', '.wh..wh.aufs', 'a/.wh..wh.orph']) assert.deepEqual(toLayerPath(path), { kind: 'ignored' });
});

test('toLayerPath() refuses paths that could leave the layer', () => {
  for (const path of ['..', '../a', 'a/../b', 'a/..', '/..']) refusesWith(path, /"\.\." component/);
  for (const path of ['.wh.', '.wh..', '.wh...', 'a/.wh...']) refusesWith(path, /names no file/);
});

test('toLayerPath() refuses paths beyond the limits of Linux', () => {
  assert.equal(toCleanPath('n'.repeat(255)).length, 255);
  refusesWith('n'.repeat(256), /name of 256 bytes/);
  assert.equal(toCleanPath('d/'.repeat(512)).split('/').length, 512);
  refusesWith('d/'.repeat(513), /513 directories deep/);
  refusesWith('n'.repeat(65_536), /path of 65536 bytes/);
  refusesWith(`a\n${'\u001b'}${'n'.repeat(300)}`, /name of/);
});
