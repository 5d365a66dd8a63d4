/**
 * One-time tokens that authorize a streaming session. They are secrets and must not be logged.
 */
import { hash, randomBytes } from 'node:crypto';
import { BerthError } from '../lib/errors.ts';

/** The lifetime of an unused token. */
export const tokenLifetimeMs = 60_000;

/** The limit of pending tokens. */
export const tokensMax = 1000;

/** 128 bits, which cannot be guessed. */
const tokenBytes = 16;

export type Tokens<T> = {
  /** @throws {BerthError} RESOURCE_EXHAUSTED while tokensMax tokens are pending. */
  readonly issue: (value: T) => string;
  /** Consumes a token. @returns undefined if it is unknown, used or expired. */
  readonly take: (token: string) => T | undefined;
};

const keyOf = (token: string): string => hash('sha256', token, 'base64');

/** @param nowMs a monotonic clock. */
export function createTokens<T>(nowMs: () => number): Tokens<T> {
  // By hash: how long a lookup takes says nothing about how much of a guessed token is right. In order of issue, which is the order of expiry.
  const pending = new Map<string, { readonly value: T; readonly expiresAtMs: number }>();
  const dropExpired = () => {
    for (const [key, { expiresAtMs }] of pending) {
      if (expiresAtMs > nowMs()) return;
      pending.delete(key);
    }
  };
  const issue = (value: T): string => {
    dropExpired();
    if (pending.size >= tokensMax) {
      throw new BerthError('RESOURCE_EXHAUSTED', `create streaming URL: ${tokensMax} URLs are pending; retry in a minute`);
    }
    const token = randomBytes(tokenBytes).toString('base64url');
    pending.set(keyOf(token), { value, expiresAtMs: nowMs() + tokenLifetimeMs });
    return token;
  };
  const take = (token: string): T | undefined => {
    dropExpired();
    const key = keyOf(token);
    const found = pending.get(key);
    pending.delete(key);
    return found?.value;
  };
  return { issue, take };
}
