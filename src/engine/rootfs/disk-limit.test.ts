import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diskLimit } from './disk-limit.ts';

const limitOf = (pod: Record<string, string>, container: Record<string, string> = {}) =>
  diskLimit({ annotations: pod }, { annotations: container, metadata: { name: 'main', attempt: 0 } }).diskLimitBytes;

test("diskLimit() prefers the container's own annotation, then the pod's for that container, then the pod's for all", () => {
  const all = { 'io.berth.disk-limit': '1Gi' };
  const named = { ...all, 'disk-limit.io.berth/main': '10M', 'disk-limit.io.berth/other': '1' };
  assert.equal(limitOf({}), undefined);
  assert.equal(limitOf(all), 1 << 30);
  assert.equal(limitOf(named), 10_000_000);
  assert.equal(limitOf(named, { 'io.berth.disk-limit': '1.5Ki' }), 1536);
});

test('diskLimit() refuses invalid sizes', () => {
  for (const text of ['', '0', '-1Gi', 'much', '100E'])
    assert.throws(() => limitOf({ 'io.berth.disk-limit': text }), { code: 'INVALID_ARGUMENT' }, text);
});
