import assert from 'node:assert/strict';
import { test } from 'node:test';
import { foldKey, goFields, withExactKeys } from './go-json.ts';

const read = (text: string) => goFields(JSON.parse(text), ['Cmd', 'diff_ids', 'keySize']);
const none = { Cmd: undefined, diff_ids: undefined, keySize: undefined };

test('goFields() reads keys in any case, as Go 1.26 encoding/json', () => {
  for (const key of ['Cmd', 'cmd', 'CMD', 'cMd']) assert.deepEqual(read(`{"${key}":1}`), { ...none, Cmd: 1 });
  assert.deepEqual(read('{"Diff_IDs":1}'), { ...none, diff_ids: 1 });
  // LATIN SMALL LETTER LONG S, KELVIN SIGN.
  assert.deepEqual(read('{"\u212aey\u017fize":1}'), { ...none, keySize: 1 });
  assert.deepEqual(read('{"command":1,"diffids":2,"__proto__":{"Cmd":3}}'), none);
});

test('goFields() prefers the exact key, and then the last one', () => {
  assert.equal(read('{"CMD":1,"Cmd":2,"cmd":3}').Cmd, 2);
  assert.equal(read('{"CMD":1,"cmd":3}').Cmd, 3);
  assert.equal(read('{"Cmd":null,"cmd":3}').Cmd, undefined);
});

test('goFields() reads null as absent, and every other value as it is', () => {
  for (const value of [false, 0, '', [], {}]) assert.deepEqual(read(JSON.stringify({ cmd: value })), { ...none, Cmd: value });
  assert.deepEqual(read('{"cmd":null}'), none);
});

test('withExactKeys() renames the named fields and keeps the others', () => {
  const object = JSON.parse('{"TYPE":"a","Type":"b","x":null,"__proto__":1,"ipam":null}');
  assert.equal(JSON.stringify(withExactKeys(object, ['type', 'ipam'])), '{"type":"b","x":null,"__proto__":1}');
});

test('foldKey() returns one text for keys that differ in case only', () => {
  assert.equal(foldKey('RuntimeConfig'), foldKey('runtimeconfig'));
  assert.notEqual(foldKey('stra\u00dfe'), foldKey('strasse'));
});
