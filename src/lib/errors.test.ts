import assert from 'node:assert/strict';
import { readdirSync, readSync, renameSync } from 'node:fs';
import { test } from 'node:test';
import { failedTo, invalidArgument, reasonOf } from './errors.ts';

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

test('reasonOf() puts the call and the path of a file system error of Node before its text', () => {
  assert.equal(reasonOf(thrownBy(() => readdirSync('/nowhere'))), 'scandir /nowhere: no such file or directory (ENOENT)');
  assert.equal(reasonOf(thrownBy(() => renameSync('/nowhere', '/x'))), 'rename /nowhere to /x: no such file or directory (ENOENT)');
  assert.equal(reasonOf(thrownBy(() => readSync(0x7fffffff, Buffer.alloc(1)))), 'read: bad file descriptor (EBADF)');
});

test('reasonOf() returns other messages unchanged', () => {
  assert.equal(reasonOf(new Error('connect ECONNREFUSED 127.0.0.1:1')), 'connect ECONNREFUSED 127.0.0.1:1');
  assert.equal(reasonOf(invalidArgument('config: missing')), 'config: missing');
  assert.equal(reasonOf('text'), 'text');
});

test('failedTo() names the attempt before the reason', () => {
  assert.equal(failedTo('list x', new Error('no')).message, 'list x: no');
});
