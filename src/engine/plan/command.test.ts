import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { executableCandidates, mergeCommand } from './command.ts';

const image = { entrypoint: ['/entry', '-e'], cmd: ['cmd'] };

const merges: [string[], string[], string][] = [
  [[], [], '/entry -e cmd'],
  [['run'], [], 'run'],
  [[], ['arg'], '/entry -e arg'],
  [['run'], ['arg'], 'run arg'],
];
for (const [command, args, expected] of merges) {
  test(`mergeCommand() with command [${command}] and args [${args}] runs ${expected}`, () => {
    assert.equal(mergeCommand({ command, args }, image).join(' '), expected);
  });
}

test('mergeCommand() runs CMD alone if there is no ENTRYPOINT', () => {
  assert.deepEqual(mergeCommand({ command: [], args: [] }, { entrypoint: [], cmd: ['sh', ''] }), ['sh', '']);
});

test('mergeCommand() rejects an empty command, an empty name, and NUL', () => {
  const none = { entrypoint: [], cmd: [] };
  for (const command of [[], [''], ['sh', 'a\0b']]) {
    assert.throws(
      () => mergeCommand({ command, args: [] }, none),
      (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT',
    );
  }
});

const searches: [string, string | undefined, string, string[]][] = [
  ['/bin/sh', '/a', '/', ['/bin/sh']],
  ['./run', '/a', '/app', ['/app/./run']],
  ['sub/run', '/a', '/', ['/sub/run']],
  ['sh', '/a:/b', '/', ['/a/sh', '/b/sh']],
  ['sh', '/a/:/a/:/b', '/', ['/a/sh', '/b/sh']],
  ['sh', ':bin:', '/app', ['/app/sh', '/app/bin/sh']],
  ['sh', '', '/app', ['/app/sh']],
  ['..', '/a', '/', ['/a/..']],
];
for (const [argv0, path, cwd, expected] of searches) {
  test(`executableCandidates() of ${argv0} with PATH ${path} in ${cwd}`, () => assert.deepEqual(executableCandidates(argv0, path, cwd), expected));
}

test('executableCandidates() uses the default PATH if none is set', () => {
  assert.equal(executableCandidates('sh', undefined, '/').length, 6);
});
