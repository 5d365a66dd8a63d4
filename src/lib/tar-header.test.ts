import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { type TarEntry, tarEnd, tarHeader, tarPadding } from './tar-header.ts';

const entry: TarEntry = { path: 'a', kind: 'file', mode: 0o644, uid: 0, gid: 0, size: 0, mtimeSeconds: 1 };

/** Lists the entries with GNU tar. */
function listed(...entries: readonly (readonly [TarEntry, string])[]): string[] {
  const parts = entries.flatMap(([each, content]) => [tarHeader(each), Buffer.from(content), tarPadding(content.length)]);
  const options = ['--list', '--verbose', '--numeric-owner', '--utc', '--full-time', '--quoting-style=escape', '--file', '-'];
  return execFileSync('tar', options, { input: Buffer.concat([...parts, tarEnd]), encoding: 'utf8' })
    .trimEnd()
    .split('\n');
}

test('tarHeader() writes entries of every kind that GNU tar can read', () => {
  const device = { major: 10, minor: 229 };
  assert.deepEqual(
    listed(
      [{ ...entry, size: 3, uid: 1000, gid: 3_000_000 }, 'abc'],
      [{ ...entry, path: 'd', kind: 'directory', mode: 0o1777 }, ''],
      [{ ...entry, path: 'l', kind: 'symlink', target: '/x', mode: 0o777 }, ''],
      [{ ...entry, path: 'h', kind: 'hardlink', target: 'a' }, ''],
      [{ ...entry, path: 'c', kind: 'char', device }, ''],
      [{ ...entry, path: 'p', kind: 'fifo' }, ''],
    ),
    [
      '-rw-r--r-- 1000/3000000      3 1970-01-01 00:00:01 a',
      'drwxrwxrwt 0/0               0 1970-01-01 00:00:01 d/',
      'lrwxrwxrwx 0/0               0 1970-01-01 00:00:01 l -> /x',
      'hrw-r--r-- 0/0               0 1970-01-01 00:00:01 h link to a',
      'crw-r--r-- 0/0          10,229 1970-01-01 00:00:01 c',
      'prw-r--r-- 0/0               0 1970-01-01 00:00:01 p',
    ],
  );
});

test('tarHeader() keeps long names, long targets and bytes that are not UTF-8', () => {
  const long = `${'x'.repeat(150)}/\xff`;
  const [file, link] = listed([{ ...entry, path: long }, ''], [{ ...entry, path: 'l', kind: 'symlink', target: long }, '']);
  assert.ok(file?.endsWith(`${'x'.repeat(150)}/\\377`), file);
  assert.ok(link?.endsWith(`l -> ${'x'.repeat(150)}/\\377`), link);
});

test('tarHeader() returns the same length for every size, so that it can be overwritten in place', () => {
  const huge = 2 ** 40;
  assert.equal(tarHeader({ ...entry, size: huge }).length, tarHeader(entry).length);
  assert.equal(tarHeader({ ...entry, size: huge }).readBigUInt64BE(124 + 4), BigInt(huge));
  assert.equal(tarHeader({ ...entry, size: 8 ** 11 - 1 }).toString('latin1', 124, 135), '77777777777');
});

test('tarHeader() writes extended attributes as pax records whose length includes its own digits', () => {
  const header = tarHeader({ ...entry, attributes: [['user.x', Buffer.alloc(76, 0x79)]] });
  assert.equal(header.toString('latin1', 512, 512 + 101), `101 SCHILY.xattr.user.x=${'y'.repeat(76)}\n`);
});
