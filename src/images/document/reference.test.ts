import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRandom, mutated, pick } from '../../../test/support/mutate.ts';
import { BerthError } from '../../lib/errors.ts';
import { formatDigest, formatReference, formatTag, isDigest, isImageId, parseReference, repositoryName, toImageIdPrefix } from './reference.ts';

const hex = '0123456789abcdef'.repeat(4);
const sha256 = `sha256:${hex}`;
const sha512 = `sha512:${hex}${hex}`;

const accepted: readonly (readonly [string, string])[] = [
  ['busybox', 'docker.io/library/busybox:latest'],
  ['busybox:1.36', 'docker.io/library/busybox:1.36'],
  [`busybox@${sha256}`, `docker.io/library/busybox@${sha256}`],
  [`busybox:1.36@${sha256}`, `docker.io/library/busybox@${sha256}`],
  [`busybox@${sha512}`, `docker.io/library/busybox@${sha512}`],
  ['team/app', 'docker.io/team/app:latest'],
  ['docker.io/busybox', 'docker.io/library/busybox:latest'],
  ['index.docker.io/busybox', 'docker.io/library/busybox:latest'],
  ['docker.io/team/app:v1', 'docker.io/team/app:v1'],
  ['localhost/app', 'localhost/app:latest'],
  ['localhost:5000/app', 'localhost:5000/app:latest'],
  ['localhost:5000/a/b/c:t', 'localhost:5000/a/b/c:t'],
  ['registry.k8s.io/pause:3.10', 'registry.k8s.io/pause:3.10'],
  ['10.0.0.1:5000/app:1', '10.0.0.1:5000/app:1'],
  ['[::1]:5000/app:1', '[::1]:5000/app:1'],
  ['[2001:db8::1]/app', '[2001:db8::1]/app:latest'],
  ['Upper/app', 'Upper/app:latest'],
  ['host:65535/app', 'host:65535/app:latest'],
  ['a__b/c--d.e_f', 'docker.io/a__b/c--d.e_f:latest'],
  [`app:${'t'.repeat(128)}`, `docker.io/library/app:${'t'.repeat(128)}`],
  [`r.io/${'p'.repeat(250)}`, `r.io/${'p'.repeat(250)}:latest`],
  ['app:_', 'docker.io/library/app:_'],
];

for (const [text, full] of accepted) {
  test(`parseReference() reads ${text.slice(0, 60)}`, () => assert.equal(formatReference(parseReference(text)), full));
}

const refused: readonly string[] = [
  '',
  ' ',
  ' busybox',
  'busybox\n',
  'Busybox',
  'team/App',
  ':1',
  'busybox:',
  'busybox:-1',
  'busybox:.1',
  'busybox:a b',
  `app:${'t'.repeat(129)}`,
  `r.io/${'p'.repeat(251)}`,
  '/app',
  'r.io/',
  'r.io//app',
  'a///b',
  'a/./b',
  'a/../b',
  '../a',
  'r.io/../../etc',
  'a..b',
  'a___b',
  '-a',
  'a-',
  'host:0/app',
  'host:65536/app',
  'host:123456/app',
  'host:/app',
  'host:port/app',
  '-host.io/app',
  'host-.io/app',
  'ho_st.io/app',
  '[::1/app',
  '[zz]/app',
  'user@host.io/app',
  'https://r.io/app',
  hex,
  sha256,
  'sha256:abc',
  `app@${sha256.slice(0, -1)}`,
  `app@${sha256}0`,
  `app@${sha256.toUpperCase()}`,
  `app@SHA256:${hex}`,
  `app@sha384:${'0'.repeat(96)}`,
  `app@md5:${'0'.repeat(32)}`,
  `app@${sha256}@${sha256}`,
  `app@${sha256}:tag`,
  'app@',
  '@',
  'a\0b',
  '[:1]:5/x',
  '1.2.3.256/x',
  'ä',
  'a'.repeat(100_000),
];

for (const text of refused) {
  test(`parseReference() refuses ${JSON.stringify(text.slice(0, 60))}`, () => {
    assert.throws(
      () => parseReference(text),
      (error) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('\n') && error.message.length < 500,
    );
  });
}

test('formatTag() returns undefined for a reference with tag and digest', () => {
  const ref = parseReference(`busybox:1.36@${sha256}`);
  assert.equal(formatTag(ref), undefined);
  assert.equal(formatDigest(ref, sha256), `docker.io/library/busybox@${sha256}`);
  assert.equal(repositoryName(ref), 'docker.io/library/busybox');
  assert.equal(formatTag(parseReference('busybox')), 'docker.io/library/busybox:latest');
});

test('isImageId(), isDigest() and toImageIdPrefix() distinguish ids and digests from names', () => {
  assert.deepEqual([isImageId(hex), isImageId(sha256), isImageId(hex.slice(1)), isImageId('busybox')], [true, true, false, false]);
  assert.deepEqual([isDigest(sha256), isDigest(sha512), isDigest(hex), isDigest(`sha256:${hex}${hex}`)], [true, true, false, false]);
  assert.equal(toImageIdPrefix('0123456'), 'sha256:0123456');
  assert.equal(toImageIdPrefix(`sha256:${hex}`), sha256);
  assert.equal(toImageIdPrefix('012345'), undefined, 'too short');
  assert.equal(toImageIdPrefix('0123456G'), undefined);
  assert.equal(toImageIdPrefix(`${hex}0`), undefined);
});

test('parseReference() returns for any text a full name that parses to itself, or throws INVALID_ARGUMENT', () => {
  const random = createRandom(1);
  const fragments = ['/', ':', '@', '.', '..', '-', '_', '[', ']', sha256, 'docker.io', 'localhost', ':5000', 'A', '\0', '%2f', '?', '#'];
  let parsed = 0;
  for (let round = 0; round < 5000; round += 1) {
    const text = mutated(random, pick(random, accepted)[0], fragments);
    try {
      const full = formatReference(parseReference(text));
      assert.equal(formatReference(parseReference(full)), full, text);
      assert.match(full, /^[a-zA-Z0-9.:[\]-]+(\/[a-z0-9._-]+)+([:@][\w.:-]+)$/, text);
      parsed += 1;
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code === 'INVALID_ARGUMENT', `${JSON.stringify(text)}: ${error}`);
    }
  }
  assert.ok(parsed > 100, 'some mutations are valid');
});
