/**
 * Compiles resolved seccomp profiles to BPF programs and caches them: thousands of containers share a few programs.
 *
 * Never installs a program. Its only side effects are calls of the library that is passed to it, which knows the numbers of system calls.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { Libseccomp } from '../../sys/library/libseccomp.ts';
import { describeProfile, type ResolvedProfile } from './seccomp.ts';
import { planProgram } from './seccomp-program.ts';

/** For the `seccomp` operation of a plan: `program` is an array of struct sock_filter, `flags` are SECCOMP_FILTER_FLAG bits. */
export type SeccompProgram = { readonly program: Buffer; readonly flags: number };

export type SeccompCompiler = {
  /**
   * Returns the program of a profile. Takes some milliseconds for a new profile, microseconds for a cached one. The program is shared: never write
   * to it.
   *
   * @throws {BerthError} INVALID_ARGUMENT if the rules contradict each other or need more than the kernel's limit of 4096 instructions; FAILED_PRECONDITION
   *   if libseccomp is not installed. The message is only the cause.
   */
  readonly compile: (profile: ResolvedProfile) => SeccompProgram;
};

/** BPF_MAXINSNS of include/uapi/linux/bpf_common.h. */
const instructionsMax = 4096;
const instructionBytes = 8;

/** Creates a compiler with a cache. @param programsMax size of the cache, in programs of at most 32 KiB. The least recently used is evicted. */
export function createSeccompCompiler(deps: { readonly libseccomp: Libseccomp; readonly programsMax: number }): SeccompCompiler {
  // Insertion order is order of use.
  const programs = new Map<string, SeccompProgram>();
  const compile = (profile: ResolvedProfile): SeccompProgram => {
    const key = describeProfile(profile);
    const program = programs.get(key) ?? compileProfile(profile, deps.libseccomp);
    programs.delete(key);
    programs.set(key, program);
    const [oldest] = programs.keys();
    if (programs.size > deps.programsMax && oldest !== undefined) programs.delete(oldest);
    return program;
  };
  return { compile };
}

function compileProfile(profile: ResolvedProfile, { syscallNumber }: Libseccomp): SeccompProgram {
  const program = planProgram(profile, syscallNumber);
  const instructions = program.length / instructionBytes;
  if (instructions > instructionsMax) {
    throw invalidArgument(`${instructions} instructions exceed the kernel's limit of ${instructionsMax}`);
  }
  return { program, flags: profile.flags };
}
