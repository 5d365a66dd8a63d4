/**
 * Compiles resolved seccomp profiles to BPF programs and remembers them: thousands of containers share a handful.
 *
 * Never installs a program, and has no effects but through the library it is given.
 */
import { BerthError } from '../../lib/errors.ts';
import type { Libseccomp } from '../../sys/library/libseccomp.ts';
import { describeProfile, type ResolvedProfile } from './seccomp.ts';
import { planNewSyscalls } from './seccomp-extension.ts';

/** For the plan's `seccomp` operation: `program` is struct sock_filter after struct sock_filter, `flags` are SECCOMP_FILTER_FLAG bits. */
export type SeccompProgram = { readonly program: Buffer; readonly flags: number };

export type SeccompCompiler = {
  /**
   * Some milliseconds for a profile not seen before, else microseconds. The program is shared: never write to it.
   *
   * @throws {BerthError} INVALID_ARGUMENT when the rules contradict each other or need more than the kernel's 4096 instructions.
   */
  readonly compile: (profile: ResolvedProfile) => SeccompProgram;
};

/** BPF_MAXINSNS of include/uapi/linux/bpf_common.h. */
const instructionsMax = 4096;
const instructionBytes = 8;

/** @param programsMax programs kept; the one not used for the longest time goes first. At most 32 KiB each. */
export function createSeccompCompiler(deps: { readonly libseccomp: Libseccomp; readonly programsMax: number }): SeccompCompiler {
  // Insertion order is order of use.
  const programs = new Map<string, SeccompProgram>();
  const compile = (profile: ResolvedProfile): SeccompProgram => {
    const key = describeProfile(profile);
    const program = programs.get(key) ?? compileProfile(deps.libseccomp, profile);
    programs.delete(key);
    programs.set(key, program);
    const [oldest] = programs.keys();
    if (programs.size > deps.programsMax && oldest !== undefined) programs.delete(oldest);
    return program;
  };
  return { compile };
}

function compileProfile(libseccomp: Libseccomp, profile: ResolvedProfile): SeccompProgram {
  const program = Buffer.concat([planNewSyscalls(profile, libseccomp.syscallNumber), libseccomp.buildFilter(profile)]);
  const instructions = program.length / instructionBytes;
  if (instructions > instructionsMax) {
    throw new BerthError(
      'INVALID_ARGUMENT',
      `compiling a seccomp profile: ${instructions} instructions are more than the kernel's ${instructionsMax}`,
    );
  }
  return { program, flags: profile.flags };
}
