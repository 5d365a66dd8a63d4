import assert from 'node:assert/strict';
import { test } from 'node:test';
import { meaningOf, parseReference } from '../document/reference.ts';
import { isIdentityAccepted, type SignedIdentity } from './signed-identity.ts';

const digest = `sha256:${'a'.repeat(64)}`;
const other = `sha256:${'b'.repeat(64)}`;

test('isIdentityAccepted() compares names as specified by containers-policy.json(5)', () => {
  const remap: SignedIdentity = { type: 'remapIdentity', prefix: 'mirror:5000/x', signedPrefix: 'example.com' };
  const exact: SignedIdentity = { type: 'exactReference', reference: 'example.com/app:1' };
  const repository: SignedIdentity = { type: 'exactRepository', repository: 'example.com/app' };
  const named = (type: 'matchExact' | 'matchRepoDigestOrExact' | 'matchRepository'): SignedIdentity => ({ type });
  const cases: readonly (readonly [SignedIdentity, wanted: string, signed: string, boolean])[] = [
    [named('matchExact'), 'busybox:1', 'docker.io/library/busybox:1', true],
    [named('matchExact'), 'busybox:1', 'docker.io/library/busybox:2', false],
    [named('matchExact'), 'busybox', 'docker.io/library/busybox', false],
    [named('matchExact'), `busybox:1@${digest}`, 'docker.io/library/busybox:1', false],
    [named('matchExact'), `busybox:1@${digest}`, `busybox@${digest}`, true],
    [named('matchRepoDigestOrExact'), 'busybox:1', 'busybox:1', true],
    [named('matchRepoDigestOrExact'), 'busybox:1', 'busybox:2', false],
    [named('matchRepoDigestOrExact'), 'busybox:1', 'busybox', false],
    [named('matchRepoDigestOrExact'), `busybox@${digest}`, 'busybox:2', true],
    [named('matchRepoDigestOrExact'), `busybox@${digest}`, `busybox@${other}`, true],
    [named('matchRepoDigestOrExact'), `busybox@${digest}`, 'busybox', false],
    [named('matchRepoDigestOrExact'), `busybox@${digest}`, 'other:2', false],
    [named('matchRepository'), 'busybox:1', 'docker.io/library/busybox', true],
    [named('matchRepository'), 'busybox:1', 'example.com/library/busybox', false],
    [named('matchRepository'), 'busybox:1', 'no name!', false],
    [exact, 'anything:7', 'example.com/app:1', true],
    [exact, 'anything:7', 'example.com/app:2', false],
    [repository, 'anything:7', 'example.com/app:2', true],
    [repository, 'anything:7', 'example.com/app/sub:2', false],
    [remap, 'mirror:5000/x/app:1', 'example.com/app:1', true],
    [remap, 'mirror:5000/x/app:1', 'example.com/app:2', false],
    [remap, `mirror:5000/x/app@${digest}`, 'example.com/app:2', true],
    [remap, 'mirror:5000/xy/app:1', 'mirror:5000/xy/app:1', true],
    [remap, 'mirror:5000/xy/app:1', 'example.comy/app:1', false],
    [{ type: 'remapIdentity', prefix: 'a.example', signedPrefix: 'UPPER/' }, 'a.example/app:1', 'a.example/app:1', false],
  ];
  for (const [identity, wanted, signed, expected] of cases) {
    assert.equal(isIdentityAccepted(identity, meaningOf(parseReference(wanted)), signed), expected, `${identity.type} ${wanted} ${signed}`);
  }
});
