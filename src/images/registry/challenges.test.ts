import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createRandom, mutated } from '../../../test/support/mutate.ts';
import { BerthError } from '../../lib/errors.ts';
import {
  credentialsFrom,
  isAddressOf,
  parseChallenges,
  parseTokenResponse,
  type RegistryAuth,
  secretsOf,
  toTokenRequest,
  unansweredText,
} from './challenges.ts';

const none: RegistryAuth = { username: '', password: '', auth: '', serverAddress: '', identityToken: '', registryToken: '' };
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const basic = (username: string, password: string) => ({ kind: 'basic', username, password });

describe('credentialsFrom()', () => {
  const cases: readonly (readonly [string, Partial<RegistryAuth>, unknown])[] = [
    ['nothing', {}, { kind: 'anonymous' }],
    ['user and password', { username: 'u', password: 'p' }, basic('u', 'p')],
    [
      'user and password before all others',
      { username: 'u', password: 'p', identityToken: 'i', auth: base64('a:b'), registryToken: 'r' },
      basic('u', 'p'),
    ],
    ['user without password', { username: 'u' }, basic('u', '')],
    ['identity token beside a placeholder user', { username: '<token>', identityToken: 'i' }, { kind: 'identity-token', token: 'i' }],
    ['identity token before auth', { identityToken: 'i', auth: base64('a:b') }, { kind: 'identity-token', token: 'i' }],
    ['auth', { auth: base64('a:b:c') }, basic('a', 'b:c')],
    ['auth with trailing NULs', { auth: base64('a:b\0\0') }, basic('a', 'b')],
    ['auth with line breaks', { auth: `${base64('abc:def').slice(0, 4)}\r\n${base64('abc:def').slice(4)}` }, basic('abc', 'def')],
    ['auth in UTF-8', { auth: base64('ü:ß') }, basic('ü', 'ß')],
    ['registry token', { registryToken: 'r' }, { kind: 'bearer', token: 'r' }],
    ['credentials for this server', { username: 'u', password: 'p', serverAddress: 'https://r.io:5000/v1/' }, basic('u', 'p')],
    ['credentials for another server', { username: 'u', password: 'p', serverAddress: 'https://other.io' }, { kind: 'anonymous' }],
    ['malformed credentials for another server', { auth: '!', serverAddress: 'other.io' }, { kind: 'anonymous' }],
  ];
  for (const [name, auth, expected] of cases) {
    test(`reads ${name}`, () => assert.deepEqual(credentialsFrom({ ...none, ...auth }, 'r.io:5000'), expected));
  }

  test('treats missing credentials as anonymous', () => assert.deepEqual(credentialsFrom(undefined, 'r.io'), { kind: 'anonymous' }));

  for (const auth of [
    { auth: 'YTpiY' },
    { auth: 'YTpi!' },
    { auth: 'YTpi=' },
    { auth: base64('no colon') },
    { registryToken: 'a\r\nb: c' },
    { registryToken: 'ü' },
  ]) {
    test(`refuses ${JSON.stringify(auth)} without quoting it`, () => {
      assert.throws(
        () => credentialsFrom({ ...none, ...auth }, 'r.io'),
        (error) =>
          error instanceof BerthError &&
          error.code === 'INVALID_ARGUMENT' &&
          Object.values(auth).every((secret) => !error.message.includes(` ${secret}`)),
      );
    });
  }
});

test('isAddressOf() compares only the host of an address', () => {
  const same: readonly (readonly [string, string])[] = [
    ['r.io', 'r.io'],
    ['HTTPS://R.io/v2/', 'r.io'],
    ['https://r.io:443', 'r.io'],
    ['r.io:5000', 'r.io:5000'],
    ['https://index.docker.io/v1/', 'docker.io'],
    ['registry-1.docker.io', 'docker.io'],
    ['http://[::1]:5000/', '[::1]:5000'],
  ];
  for (const [address, host] of same) assert.ok(isAddressOf(address, host), `${address} ${host}`);
  const different: readonly (readonly [string, string])[] = [
    ['r.io:5000', 'r.io'],
    ['evil.io/r.io', 'r.io'],
    ['https://r.io.evil.io', 'r.io'],
    ['xr.io', 'r.io'],
    ['https://r.io@evil.io/', 'r.io'],
    ['https://', 'r.io'],
  ];
  for (const [address, host] of different) assert.ok(!isAddressOf(address, host), `${address} ${host}`);
});

test('secretsOf() returns the strings that must not be shown', () => {
  assert.deepEqual(secretsOf({ kind: 'basic', username: 'u', password: 'p' }), ['p', base64('u:p')]);
  assert.deepEqual(secretsOf({ kind: 'bearer', token: 't' }), ['t']);
  assert.deepEqual(secretsOf({ kind: 'anonymous' }), []);
});

describe('parseChallenges()', () => {
  const cases: readonly (readonly [string, readonly (readonly [string, Record<string, string>])[]])[] = [
    ['', []],
    [', ,', []],
    ['Basic', [['basic', {}]]],
    ['Basic realm="a, b"', [['basic', { realm: 'a, b' }]]],
    [
      'Bearer realm="https://a/t",service="r",scope="repository:x:pull,push"',
      [['bearer', { realm: 'https://a/t', service: 'r', scope: 'repository:x:pull,push' }]],
    ],
    ['BEARER Realm = "x" , SERVICE=y', [['bearer', { realm: 'x', service: 'y' }]]],
    ['Bearer realm="a\\"b\\\\c"', [['bearer', { realm: 'a"b\\c' }]]],
    [
      'Basic realm="x", Bearer realm="y"',
      [
        ['basic', { realm: 'x' }],
        ['bearer', { realm: 'y' }],
      ],
    ],
    [
      'Negotiate abc==, Basic realm=x',
      [
        ['negotiate', {}],
        ['basic', { realm: 'x' }],
      ],
    ],
    ['Bearer realm="open', [['bearer', {}]]],
    ['realm="without scheme"', []],
    ['Bearer realm=""', [['bearer', { realm: '' }]]],
  ];
  for (const [header, expected] of cases) {
    test(`reads ${header}`, () => {
      const found = parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);
      assert.deepEqual(found, expected);
    });
  }

  test('never throws and always terminates', () => {
    const random = createRandom(2);
    const fragments = ['"', '\\', '=', ',', ' ', 'Bearer ', 'Basic ', 'realm=', '"x', '\t', '\r\n', '=='];
    for (let round = 0; round < 5000; round += 1) {
      const header = mutated(random, 'Basic realm="x", Bearer realm="https://a/t",service="r",scope="repository:x:pull"', fragments);
      for (const challenge of parseChallenges(header)) assert.equal(challenge.scheme, challenge.scheme.toLowerCase());
    }
    for (const long of ['\\"', 'a ', 'a=" ', '"', ' ', ',', 'a', 'a="b",']) parseChallenges(`Bearer x="${long.repeat(5000)}`);
  });
});

describe('toTokenRequest()', () => {
  const request = (header: string, scheme: 'http' | 'https' = 'https') => {
    const [challenge] = parseChallenges(header);
    assert.ok(challenge);
    return toTokenRequest(challenge, scheme, 'repository:own:pull');
  };
  test('reads realm, service and scope', () => {
    const { realm, service, scope } = request('Bearer realm="https://a/t?x=1",service="s",scope="c"') ?? {};
    assert.deepEqual([realm?.href, service, scope], ['https://a/t?x=1', 's', 'c']);
  });
  test('uses the fallback scope if the challenge has none', () => assert.equal(request('Bearer realm="https://a/t"')?.scope, 'repository:own:pull'));
  for (const realm of ['', 'relative', 'file:///etc/passwd', 'http://a/t', 'https://user:pass@a/t', 'javascript:1']) {
    test(`refuses realm ${JSON.stringify(realm)} for a registry with TLS`, () => assert.equal(request(`Bearer realm="${realm}"`), undefined));
  }
  test('accepts a realm without TLS for a registry without TLS', () => assert.ok(request('Bearer realm="http://a/t"', 'http')));
});

test('parseTokenResponse() accepts either name of the token, and bounds its lifetime', () => {
  const parse = (value: unknown) => parseTokenResponse(Buffer.from(JSON.stringify(value)));
  assert.deepEqual(parse({ token: 't' }), { token: 't', lifetimeMs: 60_000 });
  assert.deepEqual(parse({ token: '', access_token: 'a', expires_in: 300 }), { token: 'a', lifetimeMs: 300_000 });
  assert.deepEqual(parse({ token: 't', expires_in: 1e12 }), { token: 't', lifetimeMs: 86_400_000 });
  assert.deepEqual(parse({ token: 't', expires_in: '300' }), { token: 't', lifetimeMs: 60_000 });
  for (const bad of [null, [], {}, 't', { token: 7 }, { token: 'a\nb' }, { token: 'x'.repeat(65_537) }]) assert.equal(parse(bad), undefined);
  assert.equal(parseTokenResponse(Buffer.from('{')), undefined);
});

test('unansweredText() names the realm without user, password and query', () => {
  const text = (realm: string) =>
    unansweredText([{ scheme: 'bearer', parameters: new Map([['realm', realm]]) }], { scheme: 'https', isMirror: false }, true);
  for (const realm of ['https://a.example/token?key=secret', 'https://me:secret@a.example/token#secret', 'https://secret@a.example/token'])
    assert.equal(text(realm), 'what berth sent was refused (bearer, realm https://a.example/token)');
  assert.equal(text('Registry of the team'), 'what berth sent was refused (bearer, realm Registry of the team)');
  for (const realm of ['me:secret@a.example/token', '//me:secret@a.example/x?secret', 'ftp://me:secret@a.example/x'])
    assert.doesNotMatch(text(realm), /secret/, realm);
});
