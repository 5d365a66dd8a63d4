/**
 * Builds the beginning of a seccomp program, which handles system calls newer than the node's libseccomp or newer than the profile.
 *
 * Pure. libseccomp 2.5.4 (Debian 12) knows system calls up to Linux 5.17. Without this, newer calls that a profile allows by name would be rejected.
 * Calls that did not exist when the profile was written return ENOSYS instead of EPERM, because C libraries fall back to older calls only on ENOSYS.
 * runc does the same for that reason (libcontainer/seccomp/patchbpf).
 *
 *   load arch
 *   for each architecture of the profile, else main:
 *     load number; below the calls that follow -> main
 *     above the newest call that the profile mentions -> ENOSYS      (unless the default action allows)
 *     one of the calls below with a rule -> its action
 *   main: the program of libseccomp
 */
import assert from 'node:assert/strict';
import type { ResolvedProfile, ResolvedRule } from './seccomp.ts';

/**
 * Returns the number of a system call on an architecture (libseccomp's name), on x32 with its bit.
 * Undefined: libseccomp does not know the call, or the architecture does not have it.
 */
export type SyscallNumber = (name: string, architecture: string) => number | undefined;

/** System calls since Linux 5.18: arch/x86/entry/syscalls/syscall_64.tbl. From 424 on, numbers are the same on all supported architectures. */
const newSyscalls: Readonly<Record<string, number>> = {
  cachestat: 451,
  fchmodat2: 452,
  map_shadow_stack: 453,
  futex_wake: 454,
  futex_wait: 455,
  futex_requeue: 456,
  statmount: 457,
  listmount: 458,
  lsm_get_self_attr: 459,
  lsm_set_self_attr: 460,
  lsm_list_modules: 461,
  mseal: 462,
  setxattrat: 463,
  getxattrat: 464,
  listxattrat: 465,
  removexattrat: 466,
  open_tree_attr: 467,
  file_getattr: 468,
  file_setattr: 469,
  listns: 470,
};

/** New system calls that only the 64-bit ABIs of x86 have. */
const newX86Syscalls: Readonly<Record<string, number>> = { uretprobe: 335, uprobe: 336 };

type Abi = {
  /** AUDIT_ARCH value: include/uapi/linux/audit.h. */
  readonly auditArch: number;
  /** Set in the numbers of x32, which has the AUDIT_ARCH of x86_64. */
  readonly bit: number;
  readonly added: Readonly<Record<string, number>>;
  /** First and last of the numbers outside of the common sequence. The library handles them. */
  readonly separate?: readonly [number, number];
};

const x32Bit = 0x40000000;

/** By libseccomp's names. The separate numbers are x32's variants of older calls, and __ARM_NR_BASE of arch/arm/include/uapi/asm/unistd.h. */
const abis: Readonly<Record<string, Abi>> = {
  x86_64: { auditArch: 0xc000003e, bit: 0, added: { ...newSyscalls, ...newX86Syscalls } },
  x32: { auditArch: 0xc000003e, bit: x32Bit, added: { ...newSyscalls, ...newX86Syscalls }, separate: [512, 547] },
  x86: { auditArch: 0x40000003, bit: 0, added: newSyscalls },
  aarch64: { auditArch: 0xc00000b7, bit: 0, added: newSyscalls },
  arm: { auditArch: 0x40000028, bit: 0, added: newSyscalls, separate: [0xf0000, 0xfffff] },
};

/** Offsets in struct seccomp_data. */
const offset = { number: 0, arch: 4 } as const;
/** Opcodes of linux/bpf_common.h: class, size or operation, and source combined. */
const BPF = {
  loadWord: 0x20,
  jumpEqual: 0x15,
  jumpGreater: 0x25,
  jumpGreaterEqual: 0x35,
  jumpSet: 0x45,
  jump: 0x05,
  and: 0x54,
  return: 0x06,
} as const;

const ERRNO_ENOSYS = 0x00050000 + 38;
/** Actions from LOG on allow the call. */
const permissive = 0x7ffc0000;
/** A tracer can emulate calls that the profile does not know. */
const TRACE_KIND = 0x7ff0;

type Instruction = { readonly code: number; readonly k: number; readonly onTrue?: number; readonly onFalse?: number };

/** Jumps to the first instruction after these. Conditional jumps reach only 255 instructions. */
const toMain: Instruction = { code: BPF.jump, k: -1 };

/** Returns the instructions to put before libseccomp's program; empty if there is nothing to add. */
export function planNewSyscalls(profile: ResolvedProfile, numberOf: SyscallNumber): Buffer {
  const sections = profile.architectures.map((name) => {
    const abi = abis[name];
    assert(abi !== undefined, `unknown architecture ${name}`);
    return { abi, checks: planChecks(profile, abi, (call) => numberIn(abi, numberOf(call, name))) };
  });
  if (sections.every(({ checks }) => checks.length === 0)) return Buffer.alloc(0);
  const auditArches = [...new Set(sections.map(({ abi }) => abi.auditArch))];
  const bodies = auditArches.map((auditArch) => ({ auditArch, body: planArchitecture(sections.filter(({ abi }) => abi.auditArch === auditArch)) }));
  return encode([
    { code: BPF.loadWord, k: offset.arch },
    ...bodies.flatMap(({ auditArch, body }) => [{ code: BPF.jumpEqual, k: auditArch, onFalse: body.length }, ...body]),
    toMain,
  ]);
}

type Section = { readonly abi: Abi; readonly checks: readonly Instruction[] };

/** Each part ends the program or jumps to main. x32 calls are left to the library, which kills the caller, unless the profile has x32. */
function planArchitecture(sections: readonly Section[]): Instruction[] {
  const [plain, x32] = [sections.find(({ abi }) => abi.bit === 0)?.checks ?? [], sections.find(({ abi }) => abi.bit !== 0)?.checks ?? []];
  const isX86 = sections.some(({ abi }) => abi.auditArch === abis['x86_64']?.auditArch);
  const own = [...plain, toMain];
  return [
    { code: BPF.loadWord, k: offset.number },
    ...(isX86 ? [{ code: BPF.jumpSet, k: x32Bit, onTrue: own.length }] : []),
    ...own,
    ...(isX86 ? [{ code: BPF.and, k: ~x32Bit >>> 0 }, ...x32, toMain] : []),
  ];
}

/** Returns the checks of a number without the x32 bit, which falls through to main. */
function planChecks(profile: ResolvedProfile, abi: Abi, libraryNumber: (name: string) => number | undefined): Instruction[] {
  const additions = newSyscallActions(profile, abi, libraryNumber);
  const numbers = [...profile.mentioned].map((name) => libraryNumber(name) ?? abi.added[name] ?? -1);
  const newest = Math.max(-1, ...numbers.filter((number) => !isSeparate(abi, number)));
  const rejectsNewer = newest >= 0 && !allows(profile.defaultAction) && profile.defaultAction !== ERRNO_ENOSYS;
  if (additions.size === 0 && !rejectsNewer) return [];
  const lowest = Math.min(...(rejectsNewer ? [newest + 1] : []), ...additions.keys());
  const [separateFirst, separateLast] = abi.separate ?? [];
  return [
    { code: BPF.jumpGreaterEqual, k: lowest, onTrue: 1 },
    toMain,
    ...(separateFirst === undefined || separateLast === undefined
      ? []
      : [{ code: BPF.jumpGreaterEqual, k: separateFirst, onFalse: 2 }, { code: BPF.jumpGreater, k: separateLast, onTrue: 1 }, toMain]),
    ...(rejectsNewer ? returnIf(BPF.jumpGreater, newest, ERRNO_ENOSYS) : []),
    ...[...additions].flatMap(([number, action]) => returnIf(BPF.jumpEqual, number, action)),
  ];
}

/** Returns number to action of the calls that have a rule and that the library does not know. The first rule counts. */
function newSyscallActions(profile: ResolvedProfile, abi: Abi, libraryNumber: (name: string) => number | undefined): Map<number, number> {
  const result = new Map<number, number>();
  for (const rule of profile.rules.filter(isExpressible)) {
    for (const name of rule.syscalls) {
      const number = abi.added[name];
      if (number === undefined || result.has(number) || libraryNumber(name) !== undefined) continue;
      result.set(number, rule.action);
    }
  }
  return result;
}

/** This program cannot check arguments: a call that is allowed or rejected only for some arguments is rejected for all. */
function isExpressible(rule: ResolvedRule): boolean {
  return rule.args.length === 0 || rule.action < permissive || rule.action >= 0x80000000;
}

const allows = (action: number): boolean => (action >= permissive && action < 0x80000000) || action >>> 16 === TRACE_KIND;

const isSeparate = ({ separate }: Abi, number: number): boolean => separate !== undefined && number >= separate[0] && number <= separate[1];

const numberIn = ({ bit }: Abi, number: number | undefined): number | undefined => (number === undefined ? undefined : number & ~bit);

function returnIf(test: number, k: number, action: number): Instruction[] {
  return [
    { code: test, k, onFalse: 1 },
    { code: BPF.return, k: action },
  ];
}

/** Encodes struct sock_filter: code u16, offsets of both branches u8, k u32. */
function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * instructions.length);
  instructions.forEach((instruction, i) => {
    const { code, k, onTrue = 0, onFalse = 0 } = instruction;
    bytes.writeUInt16LE(code, 8 * i);
    bytes.writeUInt8(onTrue, 8 * i + 2);
    bytes.writeUInt8(onFalse, 8 * i + 3);
    bytes.writeUInt32LE(instruction === toMain ? instructions.length - i - 1 : k, 8 * i + 4);
  });
  return bytes;
}
