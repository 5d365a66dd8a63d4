import assert from 'node:assert/strict';
import { test } from 'node:test';
import { treeOf } from './process-tree.ts';

test('treeOf() finds descendants in any order and the session of the root, and no other processes', () => {
  const members = [
    { pid: 30, parent: 20, session: 10 },
    { pid: 10, parent: 1, session: 10 },
    { pid: 20, parent: 10, session: 99 },
    { pid: 40, parent: 1, session: 10 },
    { pid: 50, parent: 1, session: 50 },
  ];
  assert.deepEqual(
    treeOf(members, 10).sort((a, b) => a - b),
    [10, 20, 30, 40],
  );
  assert.deepEqual(treeOf(members, 77), []);
});
