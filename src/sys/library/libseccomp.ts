/**
 * The numbers of system calls, from libseccomp. Loads the library on first use.
 *
 * Only its tables are used: src/engine/seccomp/seccomp-program.ts generates programs.
 */
import { failedPrecondition, reasonOf } from '../../lib/errors.ts';
import { library } from '../call/ffi.ts';

export type Libseccomp = {
  /**
   * Returns the number of a system call on an architecture (`x86_64`, `x86`, `x32`, `aarch64`, `arm`), on x32 with its bit. Undefined if it is unknown, or
   * the architecture does not have it as a call of its own.
   *
   * @throws {BerthError} FAILED_PRECONDITION if the library is not installed.
   */
  readonly syscallNumber: (name: string, architecture: string) => number | undefined;
};

export function createLibseccomp(): Libseccomp {
  let bindings: Bindings | undefined;
  const tokens = new Map<string, number>();
  return {
    syscallNumber: (name, architecture) => {
      bindings ??= loadBindings();
      const token = tokens.get(architecture) ?? bindings.resolveArch(architecture);
      tokens.set(architecture, token);
      const number = bindings.resolveNameIn(token, name);
      return number >= 0 ? number : undefined;
    },
  };
}

type Bindings = ReturnType<typeof loadBindings>;

function loadBindings() {
  const seccomp = openLibrary();
  return {
    resolveNameIn: seccomp.func('int seccomp_syscall_resolve_name_arch(uint32_t arch, const char *name)'),
    resolveArch: seccomp.func('uint32_t seccomp_arch_resolve_name(const char *name)'),
  };
}

function openLibrary(): ReturnType<typeof library> {
  try {
    return library('libseccomp.so.2');
  } catch (error) {
    throw failedPrecondition(`load libseccomp.so.2: ${reasonOf(error)} (Debian: apt-get install libseccomp2)`, error);
  }
}
