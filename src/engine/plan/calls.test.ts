import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { callNames, calls } from './calls.ts';

const header = readFileSync(new URL('../../monitor/ops.h', import.meta.url), 'utf8');

test('calls has the same operations as ops.h, in the same order and with the same kinds', () => {
  const rows = [...header.matchAll(/^ {2}X\((\w+), [\w-]+, "(\w*)"\)/gm)].map(([, name, kinds]) => `${name} ${kinds}`);
  assert.deepEqual(
    callNames.map((name) => `${name} ${calls[name].kinds}`),
    rows,
  );
});

/** The letters of the arguments that each kind is encoded to. */
const wire: Readonly<Record<string, string>> = {
  fd: 'F',
  text: 'S',
  bytes: 'B',
  openHow: 'B',
  mountAttr: 'B',
  ids: 'B',
  rlimit: 'R',
  capabilities: 'HC',
  struct: 'I',
};

test('calls defines the arguments that the kinds of each operation require', () => {
  for (const name of callNames) {
    const encoded = Object.values(calls[name].args).map((kind: string) => wire[kind] ?? 'L');
    assert.equal(encoded.join(''), calls[name].kinds.replaceAll(/[NGZ0-9]/g, ''), name);
  }
});
