import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withoutUserinfo } from './userinfo.ts';

test('withoutUserinfo() removes credentials, and keeps tags, digests and ports', () => {
  const digest = `sha256:${'0'.repeat(64)}`;
  for (const [given, expected] of [
    ['https://kim:pass@r.example/x:1', 'https://***@r.example/x:1'],
    ['kim:pass@r.example:5000/x', '***@r.example:5000/x'],
    ['kim:@r.example/x', '***@r.example/x'],
    ['r.example:5000/x:1', 'r.example:5000/x:1'],
    [`r.example:5000/x:1@${digest}`, `r.example:5000/x:1@${digest}`],
    [`x@${digest}`, `x@${digest}`],
    ['', ''],
  ] as const)
    assert.equal(withoutUserinfo(given), expected);
});
