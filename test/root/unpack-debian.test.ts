/**
 * Unpacks several thousand files of Debian packages with berth, GNU tar and umoci: all entries must be equal.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { describeTree, useLayers } from '../support/layer-bed.ts';

const bed = useLayers();

/** Parents first, because they have times too. They contain setuid programs, hard links, symlinks, alternatives, and files of special groups. */
const parents = ['usr', 'usr/bin', 'usr/share', 'var', 'var/lib'];
const parts = ['etc', 'var/lib/dpkg', 'usr/share/perl5', 'usr/share/zoneinfo', 'usr/bin/su', 'usr/bin/mount', 'usr/bin/chage', 'usr/bin/perl'];
const filesMin = 3000;

const attributes = ['--xattrs', '--xattrs-include=*', '--numeric-owner'];
const chosen = ['--no-recursion', ...parents, '--recursion', ...parts.filter((part) => existsSync(`/${part}`))];
const tar = execFileSync('tar', ['-c', '--format=posix', '--sort=name', '--one-file-system', ...attributes, '-C', '/', ...chosen], {
  maxBuffer: 1 << 30,
  stdio: ['ignore', 'pipe', 'ignore'],
});

const trees = new Map<string, Record<string, unknown>>();

test('GNU tar and berth create the same tree', async () => {
  const expected = bed.newDir();
  execFileSync('tar', ['-x', '-p', '--delay-directory-restore', '--warning=no-timestamp', ...attributes, '-C', expected], { input: tar });
  // The archive has no entry for the root directory.
  const { '': _root, ...tree } = describeTree(expected);
  assert.ok(Object.keys(tree).length > filesMin, `only ${Object.keys(tree).length} entries`);
  trees.set('tar', tree);
  const { '': _own, ...own } = describeTree((await bed.unpack(tar, { compress: (bytes) => gzipSync(bytes, { level: 1 }) })).root);
  assert.deepEqual(own, tree);
});

test('umoci creates the same tree', () => {
  const directory = bed.newDir();
  const umoci = (...args: string[]): void => void execFileSync('umoci', args, { cwd: directory, stdio: 'pipe' });
  execFileSync('tee', [join(directory, 'layer.tar')], { input: tar, stdio: ['pipe', 'ignore', 'pipe'] });
  umoci('init', '--layout', 'oci');
  umoci('new', '--image', 'oci:test');
  umoci('raw', 'add-layer', '--image', 'oci:test', 'layer.tar');
  umoci('raw', 'unpack', '--image', 'oci:test', 'rootfs');
  const { '': _root, ...tree } = describeTree(join(directory, 'rootfs'));
  assert.deepEqual(tree, trees.get('tar'));
});
