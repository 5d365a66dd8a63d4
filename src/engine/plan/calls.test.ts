import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { callNames, calls } from './calls.ts';

const header = readFileSync(new URL('../../monitor/ops.h', import.meta.url), 'utf8');

test('calls has the operations of ops.h, in its order and with its kinds', () => {
  const rows = [...header.matchAll(/^ {2}X\((\w+), [\w-]+, "(\w*)"\)/gm)].map(([, name, kinds]) => `${name} ${kinds}`);
  assert.deepEqual(
    callNames.map((name) => `${name} ${calls[name].kinds}`),
    rows,
  );
});

/** How many arguments on the wire each kind becomes, by their letters. */
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

test('calls gives each operation the arguments that its kinds ask for', () => {
  for (const name of callNames) {
    const sent = Object.values(calls[name].args).map((kind: string) => wire[kind] ?? 'L');
    assert.equal(sent.join(''), calls[name].kinds.replaceAll(/[NGZ0-9]/g, ''), name);
  }
});
