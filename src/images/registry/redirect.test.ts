import assert from 'node:assert/strict';
import { test } from 'node:test';
import { redirected } from './redirect.ts';

const tls = { caFiles: ['/ca.pem'], clientPairs: [{ certFile: '/c.pem', keyFile: '/c.key' }], skipVerify: false };
const headers = { range: 'bytes=7-' };
const requestOf = (url: string, isVerified = true) => ({ url: new URL(url), headers, ownHeaders: { authorization: 'Basic eA==' }, tls, isVerified });

/** Follows the locations. @returns whether the last request has credentials. */
function keeps(...locations: string[]): boolean {
  const [first = '', ...others] = locations;
  const last = others.reduce((request, location) => redirected(request, location, new URL(first)), requestOf(first));
  assert.equal(last.headers.range, 'bytes=7-');
  assert.deepEqual(last.tls.caFiles, tls.caFiles);
  assert.equal(last.tls.clientPairs.length > 0, 'authorization' in last.ownHeaders);
  return 'authorization' in last.ownHeaders;
}

test('redirected() keeps credentials for the host and its subdomains only, as Go 1.26', () => {
  assert.equal(keeps('https://r.example/a', '/b'), true);
  assert.equal(keeps('https://r.example/a', 'https://r.example:8443/b'), true);
  assert.equal(keeps('http://r.example/a', 'https://r.example/b'), true);
  assert.equal(keeps('https://r.example/a', 'https://cdn.r.example/b'), true);
  assert.equal(keeps('https://r.example/a', 'https://cdn.r.example/b', 'https://r.example/c'), true);
  for (const target of ['https://other.example/b', 'https://example/b', 'https://notr.example/b', 'https://r.example.org/b'])
    assert.equal(keeps('https://r.example/a', target), false, target);
  assert.equal(keeps('https://r.example/a', 'https://other.example/b', 'https://r.example/c'), false, 'once dropped');
  assert.equal(keeps('http://127.0.0.1:1/a', 'http://127.0.0.2/b'), false);
  assert.equal(keeps('http://[::1]/a', 'http://[::1]:2/b'), true);
});

test('redirected() gives up TLS for content that is checked by digest only, and never with credentials', () => {
  assert.equal(keeps('https://r.example/a', 'http://r.example/b'), false);
  assert.equal(keeps('https://r.example/a', 'http://r.example/b', 'https://r.example/c'), false);
  assert.throws(() => redirected(requestOf('https://r.example/a', false), 'http://r.example/b', new URL('https://r.example/a')), {
    message: 'redirect from https to http://r.example',
  });
  for (const target of ['file:///etc/shadow', 'http://', '//'])
    assert.throws(() => redirected(requestOf('https://r.example/a'), target, new URL('https://r.example/a')), { message: /not an http URL/ }, target);
});
