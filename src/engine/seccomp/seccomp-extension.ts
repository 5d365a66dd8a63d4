/**
 * Builds the beginning of a seccomp program, which handles system calls newer than the node's libseccomp or newer than the profile.
 *
 * Pure. libseccomp 2.5.4 (Debian 12) knows system calls up to Linux 5.17. Without this, newer calls that a profile allows by name would be rejected.
 * Calls that did not exist when the profile was written return ENOSYS instead of EPERM, because C libraries fall back to older calls only on ENOSYS.
 * runc does the same for that reason.
 *
 *   load arch; not an architecture of the profile -> main
 *   load number, without the x32 bit; below the new calls, or 512 and above -> main
 *   above the newest call that the profile mentions -> ENOSYS      (only if the default action is another errno)
 *   one of the calls below with a rule -> its action
 *   main: the program of libseccomp
 */
import assert from 'node:assert/strict';
import type { ResolvedProfile, ResolvedRule } from './seccomp.ts';

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

const unifiedFirst = 424;
/** 512 to 547 are variants of older calls for x32. */
const unifiedEnd = 512;

/** AUDIT_ARCH values by libseccomp's names: include/uapi/linux/audit.h. x32 has the value of x86_64, and a bit in the system call number. */
const auditArch: Readonly<Record<string, number>> = { x86_64: 0xc000003e, x86: 0x40000003, x32: 0xc000003e, aarch64: 0xc00000b7, arm: 0x40000028 };
const withoutX32Bit = 0xbfffffff;

/** Offsets in struct seccomp_data. */
const offset = { number: 0, arch: 4 } as const;
/** Opcodes of linux/bpf_common.h: class, size or operation, and source combined. */
const BPF = { loadWord: 0x20, jumpEqual: 0x15, jumpGreater: 0x25, jumpGreaterEqual: 0x35, jump: 0x05, and: 0x54, return: 0x06 } as const;

const actionKind = 0xffff0000;
const ERRNO_KIND = 0x00050000;
const ENOSYS = 38;
/** Actions from LOG on allow the call. */
const permissive = 0x7ffc0000;

/** Jump target `main`: the first instruction after these. */
const main = -1;
type Instruction = { readonly code: number; readonly k: number; readonly onTrue?: number; readonly onFalse?: number };

/**
 * Returns the instructions to put before libseccomp's program; empty if there is nothing to add.
 *
 * @param libraryNumber the numbers of the calls that libseccomp knows. These calls are left to it.
 */
export function planNewSyscalls(profile: ResolvedProfile, libraryNumber: (name: string) => number | undefined): Buffer {
  const numberOf = (name: string): number | undefined => libraryNumber(name) ?? newSyscalls[name];
  const additions = newSyscallActions(profile, libraryNumber);
  const newest = Math.max(unifiedFirst - 1, ...[...profile.mentioned].map((name) => numberOf(name) ?? 0).filter((number) => number < unifiedEnd));
  const rejectsNewer = kindOf(profile.defaultAction) === ERRNO_KIND && profile.defaultAction !== ERRNO_KIND + ENOSYS;
  if (additions.size === 0 && !rejectsNewer) return Buffer.alloc(0);
  const lowest = Math.min(newest + 1, ...additions.keys());
  return encode([
    ...archGuard(profile.architectures),
    { code: BPF.loadWord, k: offset.number },
    ...(profile.architectures.includes('x32') ? [{ code: BPF.and, k: withoutX32Bit }] : []),
    { code: BPF.jumpGreaterEqual, k: lowest, onFalse: main },
    { code: BPF.jumpGreaterEqual, k: unifiedEnd, onTrue: main },
    ...(rejectsNewer ? returnIf(BPF.jumpGreater, newest, ERRNO_KIND + ENOSYS) : []),
    ...[...additions].flatMap(([number, action]) => returnIf(BPF.jumpEqual, number, action)),
    { code: BPF.jump, k: main },
  ]);
}

/** Returns number to action of the calls that have a rule and that the library does not know. The first rule counts. */
function newSyscallActions(profile: ResolvedProfile, libraryNumber: (name: string) => number | undefined): Map<number, number> {
  const result = new Map<number, number>();
  for (const rule of profile.rules.filter(isExpressible)) {
    for (const name of rule.syscalls) {
      const number = newSyscalls[name];
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

function archGuard(architectures: readonly string[]): Instruction[] {
  const values = [...new Set(architectures.map((name) => auditArch[name]))];
  assert(!values.includes(undefined), 'unknown architecture');
  const last = values.length - 1;
  const tests = values.map((k, i): Instruction => ({ code: BPF.jumpEqual, k: k ?? 0, onTrue: last - i, onFalse: i === last ? main : 0 }));
  return [{ code: BPF.loadWord, k: offset.arch }, ...tests];
}

function returnIf(test: number, k: number, action: number): Instruction[] {
  return [
    { code: test, k, onFalse: 1 },
    { code: BPF.return, k: action },
  ];
}

const kindOf = (action: number): number => (action & actionKind) >>> 0;

/** Encodes struct sock_filter: code u16, offsets of both branches u8, k u32. */
function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * instructions.length);
  instructions.forEach(({ code, k, onTrue = 0, onFalse = 0 }, i) => {
    const target = (jump: number): number => (jump === main ? instructions.length - i - 1 : jump);
    bytes.writeUInt16LE(code, 8 * i);
    bytes.writeUInt8(target(onTrue), 8 * i + 2);
    bytes.writeUInt8(target(onFalse), 8 * i + 3);
    bytes.writeUInt32LE(code === BPF.jump ? target(k) : k, 8 * i + 4);
  });
  return bytes;
}
