import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { parseAuthFile } from './auth-file.ts';

const read = (document: unknown, host = 'm.example:5000') => parseAuthFile(Buffer.from(JSON.stringify(document)), host, '/a.json');
const empty = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };

test('parseAuthFile() returns the entry of a host, with keys in any case', () => {
  for (const address of ['m.example:5000', 'https://m.example:5000', 'http://m.example:5000/v2/', 'm.example:5000/v1'])
    assert.deepEqual(read({ AUTHS: { 'other.example': {}, [address]: { Auth: 'YTpi', Username: null } } }), { ...empty, auth: 'YTpi' });
  assert.deepEqual(read({ auths: { 'https://index.docker.io/v1/': { identitytoken: 't' } } }, 'registry-1.docker.io'), {
    ...empty,
    identityToken: 't',
  });
});

test('parseAuthFile() returns nothing for other hosts, ports and repositories', () => {
  for (const address of ['m.example', 'm.example:5001', 'm.example:5000/team'])
    assert.equal(read({ auths: { [address]: { auth: 'YTpi' } } }), undefined);
  assert.equal(read({}), undefined);
});

test('parseAuthFile() refuses malformed files without quoting them', () => {
  const texts = ['', '[]', '{"auths":[]}', '{"auths":{"m.example:5000":7313}}', '{"auths":{"m.example:5000":{"password":7313}}}', '{"secret":'];
  for (const text of texts) {
    assert.throws(
      () => parseAuthFile(Buffer.from(text), 'm.example:5000', '/a.json'),
      (error) =>
        error instanceof BerthError &&
        error.code === 'FAILED_PRECONDITION' &&
        /^\/a\.json: /.test(error.message) &&
        !/secret|password.*7313/.test(error.message),
    );
  }
});
