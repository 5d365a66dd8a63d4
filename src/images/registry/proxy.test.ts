import assert from 'node:assert/strict';
import { test } from 'node:test';
import { proxyFor, proxyFromEnvironment } from './proxy.ts';

const through = (url: string, noProxy = ''): boolean =>
  proxyFor(new URL(url), { httpProxy: 'http://p:1', httpsProxy: 'http://s:2', noProxy }) !== undefined;

test('proxyFor() selects the proxy by scheme, and adds a missing scheme to it', () => {
  assert.equal(proxyFor(new URL('http://r.io'), { httpProxy: 'http://p:1', httpsProxy: 'http://s:2' }), 'http://p:1');
  assert.equal(proxyFor(new URL('https://r.io'), { httpProxy: 'http://p:1', httpsProxy: 's:2' }), 'http://s:2');
  assert.equal(proxyFor(new URL('https://r.io'), { httpProxy: 'http://p:1' }), undefined);
  assert.equal(proxyFor(new URL('https://r.io'), { httpsProxy: '' }), undefined);
});

test('proxyFor() returns no proxy for loopback addresses', () => {
  for (const url of ['http://localhost:5000', 'http://127.0.0.1', 'https://127.5.5.5', 'http://[::1]:5000']) assert.equal(through(url), false, url);
});

test('proxyFromEnvironment() reads both cases of the variables and prefers lower case', () => {
  const settings = proxyFromEnvironment({ HTTP_PROXY: 'http://a:1', http_proxy: 'http://b:2', HTTPS_PROXY: 'http://c:3', NO_PROXY: '10.0.0.0/8' });
  assert.deepEqual(settings, { httpProxy: 'http://b:2', httpsProxy: 'http://c:3', noProxy: '10.0.0.0/8' });
  assert.equal(proxyFor(new URL('https://10.1.1.1:5000'), settings), undefined);
  assert.equal(proxyFor(new URL('https://r.io'), proxyFromEnvironment({})), undefined);
});

const cases: readonly (readonly [string, string, boolean])[] = [
  ['*', 'https://r.io', false],
  ['r.io', 'https://r.io', false],
  ['R.IO', 'https://r.io', false],
  ['r.io', 'https://sub.r.io', false],
  ['r.io', 'https://xr.io', true],
  ['.r.io', 'https://sub.r.io', false],
  ['*.r.io', 'https://sub.r.io', false],
  ['a.io, r.io', 'https://r.io', false],
  ['a.io r.io', 'https://r.io', false],
  ['r.io:443', 'https://r.io', false],
  ['r.io:443', 'http://r.io', true],
  ['r.io:5000', 'https://r.io:5000', false],
  ['10.0.0.0/8', 'https://10.1.2.3:5000', false],
  ['10.0.0.0/8', 'https://11.0.0.1', true],
  ['10.0.0.128/25', 'http://10.0.0.127', true],
  ['10.0.0.128/25', 'http://10.0.0.128', false],
  ['0.0.0.0/0', 'http://8.8.8.8', false],
  ['10.0.0.0/33', 'http://10.0.0.0', true],
  ['10.0.0.0/8', 'https://ten.io', true],
  ['10.0.0.1', 'http://10.0.0.1', false],
  ['2001:db8::1', 'http://[2001:db8::1]:80', false],
  ['[2001:db8::1]', 'http://[2001:db8::1]:80', false],
  ['2001:db8::5:1', 'http://[2001:db8::5:1]', false],
  ['2001:DB8:0::1', 'http://[2001:db8::1]', false],
  ['[2001:db8::1]:5000', 'http://[2001:db8::1]:5000', false],
  ['[2001:db8::1]:5000', 'http://[2001:db8::1]', true],
  ['2001:db8::/32', 'https://[2001:db8:1::7]:5000', false],
  ['2001:db8::/32', 'https://[2001:db9::1]', true],
  ['fd00::/8', 'https://10.0.0.1', true],
  ['::/0', 'https://[2001:db8::1]', false],
  ['10.0.0.0/8', 'https://[2001:db8::1]', true],
  ['999.0.0.0/8', 'https://10.0.0.1', true],
  ['10.0.0.0/8', 'https://10.example', true],
  ['', 'https://r.io', true],
  [',, ,', 'https://r.io', true],
];
for (const [noProxy, url, expected] of cases) {
  test(`NO_PROXY=${noProxy} ${expected ? 'does not exclude' : 'excludes'} ${url}`, () => assert.equal(through(url, noProxy), expected));
}
