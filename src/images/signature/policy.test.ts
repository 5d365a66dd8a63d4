import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseReference } from '../document/reference.ts';
import { parsePolicy, ruleFor } from './policy.ts';

const accept = [{ type: 'insecureAcceptAnything' }];
const reject = [{ type: 'reject' }];
const parse = (document: unknown) => parsePolicy(Buffer.from(JSON.stringify(document)));
const withRequirement = (requirement: object) => parse({ default: [requirement] }).default[0];

test('ruleFor() takes the most specific scope, and it alone', () => {
  const digest = `sha256:${'a'.repeat(64)}`;
  const lookUp = (scopes: readonly string[], name: string) =>
    ruleFor(parse({ default: reject, transports: { docker: Object.fromEntries(scopes.map((scope) => [scope, accept])) } }), parseReference(name))
      .scope;
  const scopes = ['docker.io/library/busybox:1', 'docker.io/library/busybox', 'docker.io/library', 'docker.io', '*.io', ''];
  const found = scopes.map((_scope, index) => lookUp(scopes.slice(index), 'busybox:1'));
  assert.deepEqual(found, [...scopes.slice(0, -1), 'docker']);
  assert.equal(lookUp(scopes, 'busybox:2'), 'docker.io/library/busybox');
  assert.equal(lookUp(scopes, 'busybox'), 'docker.io/library/busybox');
  assert.equal(lookUp([`docker.io/library/busybox@${digest}`], `busybox:1@${digest}`), `docker.io/library/busybox@${digest}`);
  assert.equal(lookUp(['docker.io/library/busybox:1'], `busybox:1@${digest}`), 'default');
  assert.equal(lookUp(['docker.io/lib', 'docker.io/library/busy'], 'busybox:1'), 'default');
});

test('ruleFor() takes a wildcard for every domain above the host, the nearest first, never for the host itself', () => {
  const policy = parse({ default: reject, transports: { docker: { '*.example.com': accept, '*.com': reject } } });
  const scopeOf = (name: string) => ruleFor(policy, parseReference(name)).scope;
  assert.equal(scopeOf('a.b.example.com/x'), '*.example.com');
  assert.equal(scopeOf('a.example.com:5000/x'), '*.example.com');
  assert.equal(scopeOf('example.com/x'), '*.com');
  assert.equal(scopeOf('badexample.com/x'), '*.com');
  assert.equal(scopeOf('localhost/x'), 'default');
});

test('ruleFor() knows no name for an image without one', () => {
  const policy = parse({ default: reject, transports: { docker: { '': accept } } });
  assert.deepEqual(ruleFor(policy, undefined), { scope: 'default', requirements: [{ type: 'reject' }] });
});

test('parsePolicy() reads keys and identities', () => {
  assert.deepEqual(withRequirement({ type: 'sigstoreSigned', keyPath: '/k' }), {
    type: 'sigstoreSigned',
    keys: [{ path: '/k' }],
    identity: { type: 'matchRepoDigestOrExact' },
  });
  const identity = { type: 'remapIdentity', prefix: 'mirror:5000/x', signedPrefix: 'example.com' };
  assert.deepEqual(withRequirement({ type: 'sigstoreSigned', keyDatas: ['UEVN'], signedIdentity: identity }), {
    type: 'sigstoreSigned',
    keys: [{ pem: 'PEM' }],
    identity,
  });
});

test('parsePolicy() keeps what berth cannot check as a requirement that nothing fulfils', () => {
  for (const requirement of [
    { type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' },
    { type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyPath: '/r' },
    { type: 'sigstoreSigned', fulcio: {} },
  ]) {
    assert.equal(withRequirement(requirement)?.type, 'unsupported');
  }
});

test('parsePolicy() refuses what the format does not have', () => {
  const signed = { type: 'sigstoreSigned', keyPath: '/k' };
  const cases: readonly (readonly [string, RegExp])[] = [
    ['[]', /should be an object/],
    ['{}', /default: should be a list/],
    ['{"default":[]}', /default: is empty/],
    ['{"default":[{"type":"accept"}]}', /"accept" is no type of requirement/],
    ['{"default":[{"type":"reject","note":1}]}', /"note" is not known/],
    ['{"default":[{"type":"reject"}],"Transports":{}}', /"Transports" is not known/],
    ['{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"\\u0061":[{"type":"reject"}]}}}', /"a" is there twice/],
    [JSON.stringify({ default: [{ type: 'sigstoreSigned' }] }), /should have one of keyPath/],
    [JSON.stringify({ default: [{ ...signed, keyData: 'eA==' }] }), /should have one of keyPath/],
    [JSON.stringify({ default: [{ type: 'sigstoreSigned', keyPaths: [] }] }), /has no keys/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'any' } }] }), /"any" is no type of identity/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'exactReference', dockerReference: 'a' } }] }), /no name with tag or digest/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'remapIdentity', prefix: 'a/b:1', signedPrefix: 'c' } }] }), /prefix "a\/b:1"/],
  ];
  for (const [text, message] of cases) assert.throws(() => parsePolicy(Buffer.from(text)), { code: 'FAILED_PRECONDITION', message }, text);
});
