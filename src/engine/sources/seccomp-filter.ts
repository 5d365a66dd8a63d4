/**
 * The seccomp filter of a container: its profile read, resolved for its capabilities and this machine, compiled once.
 */
import { readFileSync, statSync } from 'node:fs';
import { invalidArgument, reasonOf } from '../../lib/errors.ts';
import type { Exact } from '../../lib/exact.ts';
import type { HostFacts } from '../../sys/host.ts';
import { resolveProfile } from '../seccomp/seccomp.ts';
import type { SeccompCompiler, SeccompProgram } from '../seccomp/seccomp-compiler.ts';
import { defaultProfile } from '../seccomp/seccomp-default.ts';
import { parseSeccompProfile } from '../seccomp/seccomp-profile.ts';
import type { SecuritySpec } from '../state/spec.ts';

export type SeccompFilters = {
  /**
   * @param capabilities the container's: the default profile opens calls that a capability is there for.
   * @returns null: no filter, as for every privileged container.
   * @throws {BerthError} INVALID_ARGUMENT for a profile that is not there or cannot be understood.
   */
  readonly filterFor: (security: Pick<SecuritySpec, 'isPrivileged' | 'seccomp'>, capabilities: bigint) => SeccompProgram | null;
};

type Machine = Pick<HostFacts, 'arch' | 'kernel'>;

/** A profile is some tens of KiB; parseSeccompProfile() takes no more either. */
const profileBytesMax = 1024 * 1024;

/** @param deps.facts these two alone: the host's facts also hold the daemon's capabilities, which are not the container's. */
export function createSeccompFilters<Facts extends Machine>(deps: {
  readonly compiler: SeccompCompiler;
  readonly facts: Exact<Machine, Facts>;
}): SeccompFilters {
  const { arch, kernel } = deps.facts;
  return {
    filterFor: ({ isPrivileged, seccomp }, capabilities) => {
      if (isPrivileged || seccomp.kind === 'unconfined') return null;
      const profile = seccomp.kind === 'runtime-default' ? defaultProfile : parseSeccompProfile(readProfile(seccomp.path), seccomp.path);
      return deps.compiler.compile(resolveProfile(profile, { capabilities, arch, kernel }));
    },
  };
}

function readProfile(path: string): string {
  try {
    const stat = statSync(path);
    // A pipe in its place would hold the daemon.
    if (!stat.isFile() || stat.size > profileBytesMax) throw new Error(`not a regular file of at most ${profileBytesMax} bytes`);
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw invalidArgument(`reading seccomp profile ${path}: ${reasonOf(error)}`, error);
  }
}
