import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeEntry, entryName, parseEntry, parseEntryName } from './cache-entry.ts';
import { parseList } from './list.ts';

const list = parseList('{"cniVersion":"1.0.0","name":"my-net.1","plugins":[{"type":"bridge"}]}', true);
const attachment = {
  containerId: 'abc',
  ifName: 'eth0',
  netns: '/n',
  cniArgs: [['IgnoreUnknown', '1']] as const,
  capabilityArgs: { dns: { servers: [] } },
};

test('encodeEntry() writes the format of libcni', () => {
  const entry = JSON.parse(encodeEntry({ list, attachment, result: { cniVersion: '1.0.0' } }));
  assert.deepEqual(
    { ...entry, config: Buffer.from(entry.config, 'base64').toString() },
    {
      kind: 'cniCacheV1',
      containerId: 'abc',
      config: '{"cniVersion":"1.0.0","name":"my-net.1","plugins":[{"type":"bridge"}]}',
      ifName: 'eth0',
      networkName: 'my-net.1',
      netns: '/n',
      cniArgs: [['IgnoreUnknown', '1']],
      capabilityArgs: { dns: { servers: [] } },
      result: { cniVersion: '1.0.0' },
    },
  );
});

test('parseEntry() restores the input of encodeEntry(), with and without a result', () => {
  assert.deepEqual(parseEntry(encodeEntry({ list, attachment, result: undefined })), { list, attachment, result: undefined });
  assert.deepEqual(parseEntry(encodeEntry({ list, attachment, result: { ips: [] } })).result, { ips: [] });
});

test('parseEntry() refuses an entry that is truncated, of another kind, or without a valid configuration', () => {
  const valid = JSON.parse(encodeEntry({ list, attachment, result: undefined }));
  for (const text of [
    '',
    '{',
    '[]',
    JSON.stringify({ ...valid, kind: 'x' }),
    JSON.stringify({ ...valid, config: 'e30=' }),
    JSON.stringify({ ...valid, ifName: '' }),
  ]) {
    assert.throws(() => parseEntry(text), { name: 'BerthError' }, text);
  }
});

test('parseEntryName() restores the input of entryName(), also with hyphens in the network name', () => {
  assert.deepEqual(parseEntryName(entryName('my-net.1', attachment)), { networkName: 'my-net.1', containerId: 'abc', ifName: 'eth0' });
  for (const name of ['.new-a-b-eth0', 'a-b', 'a', '']) assert.equal(parseEntryName(name), null, name);
});
