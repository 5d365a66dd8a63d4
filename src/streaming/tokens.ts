/**
 * One-time tokens: the right to open one streaming session, soon. They are secrets, so they are never logged.
 */
import { randomBytes } from 'node:crypto';
import { BerthError } from '../lib/errors.ts';

/** How long a token waits for its client. */
export const tokenLifetimeMs = 60_000;

/** Tokens that may wait at a time. */
export const tokensMax = 1000;

/** 128 bits, so that nobody guesses one. */
const tokenBytes = 16;

export type Tokens<T> = {
  /** @throws {BerthError} RESOURCE_EXHAUSTED while tokensMax tokens wait. */
  readonly issue: (value: T) => string;
  /** @returns undefined when the token is unknown, used or too old. */
  readonly take: (token: string) => T | undefined;
};

/** @param nowMs a clock that never goes back. */
export function createTokens<T>(nowMs: () => number): Tokens<T> {
  // In the order of issue, which is the order of expiry.
  const waiting = new Map<string, { readonly value: T; readonly expiresAtMs: number }>();
  const dropExpired = () => {
    for (const [token, { expiresAtMs }] of waiting) {
      if (expiresAtMs > nowMs()) return;
      waiting.delete(token);
    }
  };
  const issue = (value: T): string => {
    dropExpired();
    if (waiting.size >= tokensMax) {
      throw new BerthError('RESOURCE_EXHAUSTED', `streaming: ${tokensMax} sessions wait for their clients already; try again in a minute`);
    }
    const token = randomBytes(tokenBytes).toString('base64url');
    waiting.set(token, { value, expiresAtMs: nowMs() + tokenLifetimeMs });
    return token;
  };
  const take = (token: string): T | undefined => {
    dropExpired();
    const found = waiting.get(token);
    waiting.delete(token);
    return found?.value;
  };
  return { issue, take };
}
