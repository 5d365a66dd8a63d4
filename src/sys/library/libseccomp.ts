/**
 * Compiles a flat list of rules to a BPF program with libseccomp. Loads the library on first use.
 *
 * Never installs a filter (the monitor does that), and knows nothing of profiles.
 */
import { fstatSync, readSync } from 'node:fs';
import { failedPrecondition, internal, invalidArgument, reasonOf } from '../../lib/errors.ts';
import { errnoText, library } from '../call/ffi.ts';
import { close, memfd } from '../call/syscalls.ts';

/** A condition on one argument, with the numbers of seccomp.h. */
export type FilterArg = {
  readonly index: number;
  /** enum scmp_compare: 1 NE, 2 LT, 3 LE, 4 EQ, 5 GE, 6 GT, 7 MASKED_EQ (`value` is the mask, `valueTwo` the expected result). */
  readonly op: number;
  readonly value: bigint;
  readonly valueTwo: bigint;
};

/** All conditions must hold. The action is the filter's return value (seccomp(2)), with the errno in the low half. */
export type FilterRule = { readonly syscalls: readonly string[]; readonly action: number; readonly args: readonly FilterArg[] };

export type FilterSource = {
  readonly defaultAction: number;
  /** libseccomp's names: `x86_64`, `x86`, `x32`, `aarch64`, `arm`. */
  readonly architectures: readonly string[];
  readonly rules: readonly FilterRule[];
};

export type Libseccomp = {
  /**
   * Returns the program, an array of struct sock_filter (8 bytes each). Calls of other architectures kill the thread. Unknown names are skipped.
   * If a call has several rules, a rule without conditions takes precedence over those with conditions, and earlier rules over later ones.
   *
   * @throws {BerthError} INVALID_ARGUMENT for rules that contradict each other, FAILED_PRECONDITION if the library is not installed.
   */
  readonly buildFilter: (source: FilterSource) => Buffer;
  /** Returns the number of a system call on an architecture, on x32 with its bit; undefined if it is unknown, or the architecture does not have it. */
  readonly syscallNumber: (name: string, architecture: string) => number | undefined;
};

export function createLibseccomp(): Libseccomp {
  let bindings: Bindings | undefined;
  const load = (): Bindings => {
    bindings ??= loadBindings();
    return bindings;
  };
  return {
    buildFilter: (source) => buildFilter(load(), source),
    syscallNumber: (name, architecture) => {
      const { resolveArch, resolveNameIn } = load();
      const number = resolveNameIn(resolveArch(architecture), name);
      return number >= 0 ? number : undefined;
    },
  };
}

type Bindings = ReturnType<typeof loadBindings>;

function loadBindings() {
  const seccomp = openLibrary();
  return {
    init: seccomp.func('void *seccomp_init(uint32_t defaultAction)'),
    release: seccomp.func('void seccomp_release(void *ctx)'),
    resolveName: seccomp.func('int seccomp_syscall_resolve_name(const char *name)'),
    resolveNameIn: seccomp.func('int seccomp_syscall_resolve_name_arch(uint32_t arch, const char *name)'),
    resolveArch: seccomp.func('uint32_t seccomp_arch_resolve_name(const char *name)'),
    setAttribute: seccomp.func('int seccomp_attr_set(void *ctx, int attribute, uint32_t value)'),
    addArch: seccomp.func('int seccomp_arch_add(void *ctx, uint32_t arch)'),
    addRule: seccomp.func('int seccomp_rule_add_array(void *ctx, uint32_t action, int syscall, uint count, void *args)'),
    exportBpf: seccomp.func('int seccomp_export_bpf(void *ctx, int fd)'),
  };
}

function openLibrary(): ReturnType<typeof library> {
  try {
    return library('libseccomp.so.2');
  } catch (error) {
    throw failedPrecondition(`load libseccomp.so.2: ${reasonOf(error)} (Debian: apt-get install libseccomp2)`, error);
  }
}

/** __NR_SCMP_ERROR: the name is unknown on all architectures. */
const unknownName = -1;
const EEXIST = 17;
/** SCMP_FLTATR_CTL_OPTIMIZE; 2 is a binary tree sorted by system call number. */
const attributeOptimize = 8;
const optimizeAsTree = 2;

function buildFilter(bindings: Bindings, source: FilterSource): Buffer {
  const context: unknown = bindings.init(source.defaultAction);
  if (context === null) throw internal(`compile seccomp filter: libseccomp rejects the default action 0x${source.defaultAction.toString(16)}`);
  try {
    // Fails before libseccomp 2.5, which then generates a linear program. Compiling a tree of 360 calls for three architectures takes 5 ms longer, but
    // each process start then loads it in 0.3 ms instead of 0.75 ms: the kernel walks the program for every call number.
    bindings.setAttribute(context, attributeOptimize, optimizeAsTree);
    for (const name of source.architectures) addArchitecture(bindings, context, name);
    for (const rule of source.rules) addRule(bindings, context, rule);
    return exported(bindings, context);
  } finally {
    bindings.release(context);
  }
}

function addArchitecture(bindings: Bindings, context: unknown, name: string): void {
  const result = bindings.addArch(context, bindings.resolveArch(name));
  // The native architecture is always present.
  if (result < 0 && result !== -EEXIST) throw internal(`compile seccomp filter: add architecture ${name}: ${errnoText(-result)}`);
}

function addRule(bindings: Bindings, context: unknown, rule: FilterRule): void {
  const args = encodeArgs(rule.args);
  for (const name of rule.syscalls) {
    const number = bindings.resolveName(name);
    if (number === unknownName) continue;
    const result = bindings.addRule(context, rule.action, number, rule.args.length, args);
    if (result === -EEXIST) throw invalidArgument(`compile seccomp filter: rules for ${name} have different actions for the same arguments`);
    if (result < 0) throw internal(`compile seccomp filter: add a rule for ${name}: ${errnoText(-result)}`);
  }
}

/** struct scmp_arg_cmp: unsigned index, enum op, two 64-bit values. */
function encodeArgs(args: readonly FilterArg[]): Buffer {
  const bytes = Buffer.alloc(24 * args.length);
  for (const [i, arg] of args.entries()) {
    bytes.writeUInt32LE(arg.index, 24 * i);
    bytes.writeUInt32LE(arg.op, 24 * i + 4);
    bytes.writeBigUInt64LE(arg.value, 24 * i + 8);
    bytes.writeBigUInt64LE(arg.valueTwo, 24 * i + 16);
  }
  return bytes;
}

/** Exports to a file: libseccomp before 2.6 cannot export to memory. */
function exported(bindings: Bindings, context: unknown): Buffer {
  const file = memfd('seccomp');
  try {
    const result = bindings.exportBpf(context, file);
    if (result < 0) throw internal(`compile seccomp filter: export: ${errnoText(-result)}`);
    const program = Buffer.alloc(fstatSync(file).size);
    readSync(file, program, 0, program.length, 0);
    return program;
  } finally {
    close(file);
  }
}
