/**
 * Resolves the default resource limits of containers from the configuration and the daemon's own limits. Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { RLIMIT } from './abi.ts';
import type { Rlimit } from './credentials.ts';

/** A limit as in the configuration; `name` in lower case. */
type ConfiguredLimit = { readonly name: string; readonly soft: number; readonly hard: number };

const isKnown = (name: string): name is Rlimit['name'] => name in RLIMIT;

/**
 * Returns the configured limits, lowered to the daemon's hard limits.
 *
 * @param ownHard returns the daemon's hard limit, which a container's limit cannot exceed.
 * @throws {BerthError} INVALID_ARGUMENT for an unknown name.
 */
export function planRlimits(configured: readonly ConfiguredLimit[], ownHard: (name: Rlimit['name']) => bigint): Rlimit[] {
  return configured.map((limit) => {
    const name = limit.name.toUpperCase();
    if (!isKnown(name)) throw invalidArgument(`default_ulimits: unknown limit ${limit.name}`);
    const clamp = (value: number) => (BigInt(value) < ownHard(name) ? BigInt(value) : ownHard(name));
    return { name, soft: clamp(limit.soft), hard: clamp(limit.hard) };
  });
}
