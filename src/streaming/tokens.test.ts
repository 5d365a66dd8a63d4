import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createTokens, tokenLifetimeMs, tokensMax } from './tokens.ts';

test('a token can be used once', () => {
  const tokens = createTokens<string>(() => 0);
  const token = tokens.issue('a');
  assert.equal(tokens.take(token), 'a');
  assert.equal(tokens.take(token), undefined);
  assert.equal(tokens.take('unknown'), undefined);
});

test('a token expires after a minute', () => {
  let nowMs = 0;
  const tokens = createTokens<string>(() => nowMs);
  const [first, second] = [tokens.issue('a'), tokens.issue('b')];
  nowMs = tokenLifetimeMs - 1;
  assert.equal(tokens.take(first), 'a');
  nowMs = tokenLifetimeMs;
  assert.equal(tokens.take(second), undefined);
});

test('at most 1000 tokens are pending; used and expired ones do not count', () => {
  let nowMs = 0;
  const tokens = createTokens<number>(() => nowMs);
  const issued = Array.from({ length: tokensMax }, (_, i) => tokens.issue(i));
  assert.equal(new Set(issued).size, tokensMax);
  assert.throws(() => tokens.issue(0), { code: 'RESOURCE_EXHAUSTED' });
  tokens.take(issued[0] ?? '');
  tokens.issue(0);
  assert.throws(() => tokens.issue(0), { code: 'RESOURCE_EXHAUSTED' });
  nowMs = tokenLifetimeMs;
  assert.doesNotThrow(() => tokens.issue(0));
});
