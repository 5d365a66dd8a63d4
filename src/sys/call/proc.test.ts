import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountOf, parseMountInfo } from './proc.ts';

const table = parseMountInfo(
  [
    '22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw',
    '30 22 0:25 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,size=1k',
    '31 30 0:26 /sub /run/with\\040space ro - tmpfs tmpfs ro',
    'nonsense',
    '',
  ].join('\n'),
);

test('parseMountInfo() reads the fields on both sides of the separator, and decodes escapes', () => {
  assert.equal(table.length, 3);
  assert.deepEqual(table[1]?.propagation, ['shared:5', 'master:2']);
  assert.deepEqual([table[2]?.mountPoint, table[2]?.root, table[2]?.options], ['/run/with space', '/sub', ['ro']]);
});

test('mountOf() returns the mount with the longest mount point that contains the path, by whole components', () => {
  assert.equal(mountOf(table, '/run/with space/file')?.id, 31);
  assert.equal(mountOf(table, '/run/with spaces')?.id, 30);
  assert.equal(mountOf(table, '/runner')?.id, 22);
});
