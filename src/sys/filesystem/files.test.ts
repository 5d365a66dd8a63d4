import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { makeDirectories, removeTree } from './files.ts';

const top = mkdtempSync(join(tmpdir(), 'berth-files-'));
after(() => rmSync(top, { recursive: true }));

test('makeDirectories() creates missing directories, and accepts existing ones', () => {
  for (let times = 0; times < 2; times += 1) makeDirectories(`${top}//a/../b/c/`, 0o755);
  assert.ok(statSync(join(top, 'a')).isDirectory() && statSync(join(top, 'b/c')).isDirectory());
});

test('makeDirectories() throws the errno below /proc, a file, and a dangling link', () => {
  writeFileSync(join(top, 'file'), '');
  symlinkSync('nowhere', join(top, 'link'));
  assert.throws(() => makeDirectories('/proc/none/x', 0o755), { code: 'ENOENT' });
  assert.throws(() => makeDirectories(join(top, 'file/x'), 0o755), { code: 'ENOTDIR' });
  assert.throws(() => makeDirectories(join(top, 'link/x'), 0o755), { code: 'ENOENT' });
});

test('removeTree() removes trees with paths longer than PATH_MAX and any names, and succeeds again', async () => {
  const tree = join(top, 'deep');
  const before = process.cwd();
  mkdirSync(tree);
  for (const branch of ['a', 'b', 'c']) {
    process.chdir(tree);
    for (let depth = 0; depth < 60; depth += 1) {
      mkdirSync(branch.repeat(200));
      writeFileSync(Buffer.from(`${branch}\xff`, 'latin1'), '');
      symlinkSync('/etc', `link-${branch}`);
      process.chdir(branch.repeat(200));
    }
  }
  process.chdir(before);
  await removeTree(tree);
  assert.equal(existsSync(tree), false);
  assert.ok(existsSync('/etc'));
  await removeTree(tree);
});
