/**
 * Creates seccomp filters: reads the profile, resolves it for the container's capabilities and this machine, and compiles it once.
 */
import { readFileSync, statSync } from 'node:fs';
import { failedTo, invalidArgument, reasonOf } from '../../lib/errors.ts';
import type { Exact } from '../../lib/exact.ts';
import type { HostFacts } from '../../sys/host.ts';
import { resolveProfile } from '../seccomp/seccomp.ts';
import type { SeccompCompiler, SeccompProgram } from '../seccomp/seccomp-compiler.ts';
import { defaultProfile } from '../seccomp/seccomp-default.ts';
import { parseSeccompProfile, type SeccompRules } from '../seccomp/seccomp-profile.ts';
import type { SecuritySpec } from '../state/spec.ts';

export type SeccompFilters = {
  /**
   * Returns the filter of a container.
   *
   * @param capabilities of the container: the default profile allows some system calls only with a capability.
   * @returns null: no filter, as for privileged containers.
   * @throws {BerthError} INVALID_ARGUMENT for a missing or invalid profile; FAILED_PRECONDITION if libseccomp is not installed.
   */
  readonly filterFor: (security: Pick<SecuritySpec, 'isPrivileged' | 'seccomp'>, capabilities: bigint) => SeccompProgram | null;
};

type Machine = Pick<HostFacts, 'arch' | 'kernel'>;

/** Profiles have tens of KiB. parseSeccompProfile() has the same limit. */
const profileBytesMax = 1024 * 1024;

/** @param deps.facts only these two fields: HostFacts also contains the daemon's capabilities, which must not replace the container's. */
export function createSeccompFilters<Facts extends Machine>(deps: {
  readonly compiler: SeccompCompiler;
  readonly facts: Exact<Machine, Facts>;
}): SeccompFilters {
  const { arch, kernel } = deps.facts;
  return {
    filterFor: ({ isPrivileged, seccomp }, capabilities) => {
      if (isPrivileged || seccomp.kind === 'unconfined') return null;
      const compile = (profile: SeccompRules) => deps.compiler.compile(resolveProfile(profile, { capabilities, arch, kernel }));
      if (seccomp.kind === 'runtime-default') return compile(defaultProfile);
      const profile = parseSeccompProfile(readProfile(seccomp.path), seccomp.path);
      try {
        return compile(profile);
      } catch (error) {
        throw failedTo(`compile seccomp profile ${seccomp.path}`, error);
      }
    },
  };
}

function readProfile(path: string): string {
  try {
    const stat = statSync(path);
    // A FIFO in its place would block the daemon.
    if (!stat.isFile() || stat.size > profileBytesMax) throw new Error(`not a regular file of at most ${profileBytesMax} bytes`);
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw invalidArgument(`read seccomp profile ${path}: ${reasonOf(error)}`, error);
  }
}
