/**
 * The seccomp filter of a container: its profile read, resolved for its capabilities and this machine, compiled once.
 */
import { readFileSync } from 'node:fs';
import { invalidArgument, reasonOf } from '../lib/errors.ts';
import type { HostFacts } from '../sys/host.ts';
import { resolveProfile } from './seccomp.ts';
import type { SeccompCompiler, SeccompProgram } from './seccomp-compiler.ts';
import { defaultProfile } from './seccomp-default.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';
import type { SecuritySpec } from './spec.ts';

export type SeccompFilters = {
  /**
   * @param capabilities the container's: the default profile opens calls that a capability is there for.
   * @returns null: no filter, as for every privileged container.
   * @throws {BerthError} INVALID_ARGUMENT for a profile that is not there or cannot be understood.
   */
  readonly filterFor: (security: Pick<SecuritySpec, 'isPrivileged' | 'seccomp'>, capabilities: bigint) => SeccompProgram | null;
};

export function createSeccompFilters(deps: {
  readonly compiler: SeccompCompiler;
  readonly facts: Pick<HostFacts, 'arch' | 'kernel'>;
}): SeccompFilters {
  const defaults = new Map<bigint, SeccompProgram>();
  const context = (capabilities: bigint) => ({ capabilities, ...deps.facts });
  const defaultFor = (capabilities: bigint): SeccompProgram => {
    const known = defaults.get(capabilities);
    if (known !== undefined) return known;
    const program = deps.compiler.compile(resolveProfile(defaultProfile, context(capabilities)));
    defaults.set(capabilities, program);
    return program;
  };
  return {
    filterFor: ({ isPrivileged, seccomp }, capabilities) => {
      if (isPrivileged || seccomp.kind === 'unconfined') return null;
      if (seccomp.kind === 'runtime-default') return defaultFor(capabilities);
      const profile = parseSeccompProfile(readProfile(seccomp.path), seccomp.path);
      return deps.compiler.compile(resolveProfile(profile, context(capabilities)));
    },
  };
}

function readProfile(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw invalidArgument(`reading seccomp profile ${path}: ${reasonOf(error)}`, error);
  }
}
