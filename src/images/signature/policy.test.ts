import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseReference } from '../document/reference.ts';
import { parsePolicy, ruleFor } from './policy.ts';

const accept = [{ type: 'insecureAcceptAnything' }];
const reject = [{ type: 'reject' }];
const parse = (document: unknown) => parsePolicy(Buffer.from(JSON.stringify(document)));
const withRequirement = (requirement: object) => parse({ default: [requirement] }).default[0];

test('ruleFor() uses only the most specific scope', () => {
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

test('ruleFor() matches wildcards of all parent domains, the nearest first, but not of the host itself', () => {
  const policy = parse({ default: reject, transports: { docker: { '*.example.com': accept, '*.com': reject } } });
  const scopeOf = (name: string) => ruleFor(policy, parseReference(name)).scope;
  assert.equal(scopeOf('a.b.example.com/x'), '*.example.com');
  assert.equal(scopeOf('a.example.com:5000/x'), '*.example.com');
  assert.equal(scopeOf('example.com/x'), '*.com');
  assert.equal(scopeOf('badexample.com/x'), '*.com');
  assert.equal(scopeOf('localhost/x'), 'default');
});

test('ruleFor() uses the default for an image without a name', () => {
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

test('parsePolicy() turns unsupported requirements into one that no image meets', () => {
  for (const requirement of [
    { type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' },
    { type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyPath: '/r' },
    { type: 'sigstoreSigned', fulcio: {} },
  ]) {
    assert.equal(withRequirement(requirement)?.type, 'unsupported');
  }
});

test('parsePolicy() refuses invalid policies', () => {
  const signed = { type: 'sigstoreSigned', keyPath: '/k' };
  const cases: readonly (readonly [string, RegExp])[] = [
    ['[]', /must be an object/],
    ['{}', /default: must be a list/],
    ['{"default":[]}', /default: empty list/],
    ['{"default":[{"type":"accept"}]}', /unknown requirement type "accept"/],
    ['{"default":[{"type":"reject","note":1}]}', /unknown field "note"/],
    ['{"default":[{"type":"reject"}],"Transports":{}}', /unknown field "Transports"/],
    ['{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"reject"}],"\\u0061":[{"type":"reject"}]}}}', /duplicate key "a"/],
    [JSON.stringify({ default: [{ type: 'sigstoreSigned' }] }), /must have exactly one of keyPath/],
    [JSON.stringify({ default: [{ ...signed, keyData: 'eA==' }] }), /must have exactly one of keyPath/],
    [JSON.stringify({ default: [{ type: 'sigstoreSigned', keyPaths: [] }] }), /missing keys/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'any' } }] }), /unknown identity type "any"/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'exactReference', dockerReference: 'a' } }] }), /name with a tag or digest/],
    [JSON.stringify({ default: [{ ...signed, signedIdentity: { type: 'remapIdentity', prefix: 'a/b:1', signedPrefix: 'c' } }] }), /prefix "a\/b:1"/],
  ];
  for (const [text, message] of cases) assert.throws(() => parsePolicy(Buffer.from(text)), { code: 'FAILED_PRECONDITION', message }, text);
});
