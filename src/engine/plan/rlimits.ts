/**
 * Resource limits of containers, from the configuration and what the daemon may give. Pure.
 */
import { invalidArgument } from '../../lib/errors.ts';
import { RLIMIT } from './abi.ts';
import type { Rlimit } from './credentials.ts';

/** A limit as the configuration has it; `name` in lower case. */
type ConfiguredLimit = { readonly name: string; readonly soft: number; readonly hard: number };

const isKnown = (name: string): name is Rlimit['name'] => name in RLIMIT;

/**
 * @param ownHard the daemon's hard limit: nothing above it can be given.
 * @throws {BerthError} INVALID_ARGUMENT for a name that the kernel does not have.
 */
export function planRlimits(configured: readonly ConfiguredLimit[], ownHard: (name: Rlimit['name']) => bigint): Rlimit[] {
  return configured.map((limit) => {
    const name = limit.name.toUpperCase();
    if (!isKnown(name)) throw invalidArgument(`default_ulimits: no limit is named ${limit.name}`);
    const least = (value: number) => (BigInt(value) < ownHard(name) ? BigInt(value) : ownHard(name));
    return { name, soft: least(limit.soft), hard: least(limit.hard) };
  });
}
