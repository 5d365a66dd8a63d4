/**
 * The beginning of a seccomp program: system calls that are newer than the node's libseccomp, or newer than the profile.
 *
 * Pure. libseccomp 2.5.4 (Debian 12) ends at Linux 5.17: without this, calls that a profile allows by name would be refused on such a node.
 * And a call that did not exist when the profile was written gives ENOSYS instead of EPERM: C libraries take their older way only then.
 * runc does the second for the same reason; the numbers are the profile's business otherwise.
 *
 *   load arch; not one of the profile's -> main
 *   load number, without the x32 bit; below the new ones, or 512 and above -> main
 *   above the newest mentioned -> ENOSYS          (only when the default is another errno)
 *   one of the calls below, mentioned -> its action
 *   main: the program of libseccomp
 */
import assert from 'node:assert/strict';
import type { ResolvedProfile, ResolvedRule } from './seccomp.ts';

/** New calls since Linux 5.18: arch/x86/entry/syscalls/syscall_64.tbl. Since 424 a number is the same on every architecture we run on. */
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
/** 512 to 547 are x32's own copies of old calls. */
const unifiedEnd = 512;

/** AUDIT_ARCH values by libseccomp's names: include/uapi/linux/audit.h. x32 has x86_64's and a bit in the number. */
const auditArch: Readonly<Record<string, number>> = { x86_64: 0xc000003e, x86: 0x40000003, x32: 0xc000003e, aarch64: 0xc00000b7, arm: 0x40000028 };
const withoutX32Bit = 0xbfffffff;

/** Offsets in struct seccomp_data. */
const offset = { number: 0, arch: 4 } as const;
/** linux/bpf_common.h: class, size or operation, and source together. */
const BPF = { loadWord: 0x20, jumpEqual: 0x15, jumpGreater: 0x25, jumpGreaterEqual: 0x35, jump: 0x05, and: 0x54, return: 0x06 } as const;

const actionKind = 0xffff0000;
const ERRNO_KIND = 0x00050000;
const ENOSYS = 38;
/** Actions from LOG on let the call through. */
const permissive = 0x7ffc0000;

/** `main` as a jump's target: the first instruction after these. */
const main = -1;
type Instruction = { readonly code: number; readonly k: number; readonly onTrue?: number; readonly onFalse?: number };

/**
 * @param libraryNumber what libseccomp knows: such calls are left to it.
 * @returns instructions to put in front of libseccomp's; empty when there is nothing to add.
 */
export function planNewSyscalls(profile: ResolvedProfile, libraryNumber: (name: string) => number | undefined): Buffer {
  const numberOf = (name: string): number | undefined => libraryNumber(name) ?? newSyscalls[name];
  const additions = newSyscallActions(profile, libraryNumber);
  const newest = Math.max(unifiedFirst - 1, ...[...profile.mentioned].map((name) => numberOf(name) ?? 0).filter((number) => number < unifiedEnd));
  const answersNewer = kindOf(profile.defaultAction) === ERRNO_KIND && profile.defaultAction !== ERRNO_KIND + ENOSYS;
  if (additions.size === 0 && !answersNewer) return Buffer.alloc(0);
  const lowest = Math.min(newest + 1, ...additions.keys());
  return encode([
    ...archGuard(profile.architectures),
    { code: BPF.loadWord, k: offset.number },
    ...(profile.architectures.includes('x32') ? [{ code: BPF.and, k: withoutX32Bit }] : []),
    { code: BPF.jumpGreaterEqual, k: lowest, onFalse: main },
    { code: BPF.jumpGreaterEqual, k: unifiedEnd, onTrue: main },
    ...(answersNewer ? answer(BPF.jumpGreater, newest, ERRNO_KIND + ENOSYS) : []),
    ...[...additions].flatMap(([number, action]) => answer(BPF.jumpEqual, number, action)),
    { code: BPF.jump, k: main },
  ]);
}

/** Number -> action of the calls that the profile rules and the library does not know; the first rule counts. */
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

/** Arguments are not looked at here: what would be allowed for some is refused for all, what would be refused for some as well. */
function isExpressible(rule: ResolvedRule): boolean {
  return rule.args.length === 0 || rule.action < permissive || rule.action >= 0x80000000;
}

function archGuard(architectures: readonly string[]): Instruction[] {
  const values = [...new Set(architectures.map((name) => auditArch[name]))];
  assert(!values.includes(undefined), 'architectures are of this table');
  const last = values.length - 1;
  const tests = values.map((k, i): Instruction => ({ code: BPF.jumpEqual, k: k ?? 0, onTrue: last - i, onFalse: i === last ? main : 0 }));
  return [{ code: BPF.loadWord, k: offset.arch }, ...tests];
}

function answer(test: number, k: number, action: number): Instruction[] {
  return [
    { code: test, k, onFalse: 1 },
    { code: BPF.return, k: action },
  ];
}

const kindOf = (action: number): number => (action & actionKind) >>> 0;

/** struct sock_filter: code u16, offsets of both branches u8, k u32. */
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
