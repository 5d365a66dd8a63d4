/** Places of paths in a root file system with links. */
import assert from 'node:assert/strict';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { placeInRoot, requireDirectories } from './mount-targets.ts';

const directory = mkdtempSync(join(tmpdir(), 'berth-places-'));
for (const path of ['real/deep', 'etc', 'volume/hidden']) mkdirSync(join(directory, path), { recursive: true });
writeFileSync(join(directory, 'file'), '');
for (const [path, target] of [
  ['link', 'real'],
  ['absolute', '/real/deep'],
  ['outside', '../../../../real'],
  ['dangling', 'etc/../run/gone'],
  ['loop', 'loop'],
  ['into', '/volume/hidden'],
  ['through', '/volume/../link'],
  ['volume/hidden/back', '/real'],
  ['slash', '/'],
] as const)
  symlinkSync(target, join(directory, path));
const root = openSync(directory, 'r');
after(() => {
  closeSync(root);
  rmSync(directory, { recursive: true });
});
const place = (path: string) => placeInRoot(root, path, new Set(['/volume']));

test('placeInRoot() follows all links of the image inside the root', () => {
  assert.equal(place('/real/deep'), '/real/deep');
  assert.equal(place('/link/deep'), '/real/deep');
  assert.equal(place('/absolute/new/file'), '/real/deep/new/file');
  assert.equal(place('/outside'), '/real');
  assert.equal(place('//link/./x/../y/'), '/real/y');
  assert.equal(place('/slash'), '/');
});

test('placeInRoot() returns where a dangling link leads, and the path itself for a loop', () => {
  assert.equal(place('/dangling/x'), '/run/gone/x');
  assert.equal(place('/loop/x'), '/loop/x');
  assert.equal(place('/file/x'), '/file/x');
});

test('placeInRoot() ignores what a mount hides, but follows links that lead to it or past it', () => {
  assert.equal(place('/volume/hidden/back'), '/volume/hidden/back');
  assert.equal(place('/into/back'), '/volume/hidden/back');
  assert.equal(place('/through/deep'), '/real/deep');
});

test('requireDirectories() refuses links and files, and accepts directories and missing paths', () => {
  requireDirectories(root, ['/real', '/missing']);
  assert.throws(() => requireDirectories(root, ['/link']), { code: 'FAILED_PRECONDITION', message: /\/link: .* is a symbolic link/ });
  assert.throws(() => requireDirectories(root, ['/file']), { code: 'FAILED_PRECONDITION' });
});
