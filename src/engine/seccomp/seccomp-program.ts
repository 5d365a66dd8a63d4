/**
 * Generates the BPF program of a resolved profile: struct sock_filter of linux/filter.h, as seccomp(2) takes it.
 *
 * Pure. Generated here instead of by libseccomp, so that time and size are proportional to the rules, and the program does what they say one by one.
 * Calls with neighboring numbers and the same action are one range: the kernel, which walks the program for every number when it is installed, is faster.
 *
 *   load arch; for each arch of the profile, else kill:
 *     load number; binary search for its range; in the range:
 *       for each check: load and compare arguments; all conditions met -> return its action
 *       return the action of the range
 *
 * Every part ends with a return, and jumps lead only to a part that follows: a part can be put anywhere.
 */
import type { ResolvedArg, ResolvedProfile } from './seccomp.ts';
import { abiOf, type SyscallNumber, x32Bit } from './seccomp-abi.ts';
import { type Check, type Outcome, planCalls, type Segment } from './seccomp-calls.ts';
import { compares } from './seccomp-profile.ts';

/** Offsets jump over that many instructions. */
type Instruction = { readonly code: number; readonly k: number; readonly onTrue?: number; readonly onFalse?: number };

/** Opcodes of linux/bpf_common.h: class, size or operation, and source combined. */
const BPF = {
  loadWord: 0x20,
  jump: 0x05,
  jumpEqual: 0x15,
  jumpGreater: 0x25,
  jumpGreaterEqual: 0x35,
  jumpSet: 0x45,
  and: 0x54,
  return: 0x06,
} as const;

/** Offsets in struct seccomp_data. Both supported machines are little-endian. */
const offset = { number: 0, arch: 4, low: (argument: number) => 16 + 8 * argument, high: (argument: number) => 20 + 8 * argument } as const;

/** For architectures that are not in the profile, as in libseccomp (SCMP_FLTATR_ACT_BADARCH). */
const KILL_THREAD = 0;
/** Offsets of conditional jumps are bytes: struct sock_filter. */
const offsetMax = 255;

/**
 * Returns the program.
 *
 * @throws {BerthError} INVALID_ARGUMENT for rules that contradict each other, or that need a larger program than the kernel accepts.
 */
export function planProgram(profile: ResolvedProfile, numberOf: SyscallNumber): Buffer {
  const sections = profile.architectures.map((name) => ({
    abi: abiOf(name),
    code: search(planCalls(profile, name, numberOf), abiOf(name).argumentBits),
  }));
  const bodies = [...new Set(sections.map(({ abi }) => abi.auditArch))].map((auditArch) => {
    const codeOf = (bit: number) => sections.find(({ abi }) => abi.auditArch === auditArch && abi.bit === bit)?.code;
    const plain = codeOf(0) ?? [returns(KILL_THREAD)];
    const isX86 = auditArch === abiOf('x86_64').auditArch;
    const code = isX86 ? branch({ code: BPF.jumpSet, k: x32Bit }, x32(codeOf(x32Bit), profile.defaultAction), plain) : plain;
    return { auditArch, code: [{ code: BPF.loadWord, k: offset.number }, ...code] };
  });
  const code = bodies.reduceRight<Instruction[]>(
    (others, body) => branch({ code: BPF.jumpEqual, k: body.auditArch }, body.code, others),
    [returns(KILL_THREAD)],
  );
  return encode([{ code: BPF.loadWord, k: offset.arch }, ...code]);
}

/** Code for numbers with the bit of x32. A tracer that skips a system call sets the number to -1: seccomp(2). */
function x32(code: readonly Instruction[] | undefined, defaultAction: number): Instruction[] {
  if (code !== undefined) return [{ code: BPF.and, k: ~x32Bit >>> 0 }, ...code];
  return branch({ code: BPF.jumpEqual, k: 0xffffffff }, [returns(defaultAction)], [returns(KILL_THREAD)]);
}

/** Code for a number in the accumulator. */
function search(segments: readonly Segment[], argumentBits: 32 | 64): Instruction[] {
  const middle = segments.length >> 1;
  const [lower, upper] = [segments.slice(0, middle), segments.slice(middle)];
  const [first] = upper;
  if (first === undefined) return [];
  if (lower.length === 0) return outcomeCode(first.outcome, argumentBits);
  return branch({ code: BPF.jumpGreaterEqual, k: first.from }, search(upper, argumentBits), search(lower, argumentBits));
}

function outcomeCode({ checks, action }: Outcome, argumentBits: 32 | 64): Instruction[] {
  return [...checks.flatMap((check) => checkCode(check, argumentBits)), returns(action)];
}

/** Returns the action, or continues with the next check. At most 37 instructions: a return, and six for each of six arguments. */
function checkCode({ conditions: [condition, ...others], action }: Check, argumentBits: 32 | 64): Instruction[] {
  if (condition === undefined) return [returns(action)];
  const rest = checkCode({ conditions: others, action }, argumentBits);
  const steps = compare(condition, argumentBits);
  const resolved = steps.map(({ code, k, onTrue = 'next', onFalse = 'next' }, i) => {
    const remaining = steps.length - i - 1;
    const distances = { next: 0, met: remaining, unmet: remaining + rest.length };
    return { code, k, onTrue: distances[onTrue], onFalse: distances[onFalse] };
  });
  return [...resolved, ...rest];
}

type Target = 'next' | 'met' | 'unmet';
type Step = { readonly code: number; readonly k: number; readonly onTrue?: Target; readonly onFalse?: Target };

/** Instructions have 32 bits, so the halves of a 64-bit argument are compared one after the other. NE, LT and LE are the opposites of EQ, GE and GT. */
function compare({ index, op, value, valueTwo }: ResolvedArg, argumentBits: 32 | 64): Step[] {
  const isOpposite = op === compares.SCMP_CMP_NE || op === compares.SCMP_CMP_LT || op === compares.SCMP_CMP_LE;
  const [yes, no] = isOpposite ? (['unmet', 'met'] as const) : (['met', 'unmet'] as const);
  const load = (half: 'low' | 'high'): Step => ({ code: BPF.loadWord, k: offset[half](index) });
  const isEqual = (half: bigint, onTrue: Target): Step => ({ code: BPF.jumpEqual, k: Number(half), onTrue, onFalse: no });
  const high = (word: bigint): bigint => word >> 32n;
  const low = (word: bigint): bigint => word & 0xffffffffn;
  if (op === compares.SCMP_CMP_MASKED_EQ) {
    const masked = (half: 'low' | 'high', mask: bigint, wanted: bigint, onTrue: Target): Step[] =>
      mask === 0n ? [] : [load(half), { code: BPF.and, k: Number(mask) }, isEqual(wanted, onTrue)];
    const last = masked('low', low(value), low(valueTwo), yes);
    return [...masked('high', high(value), high(valueTwo), last.length === 0 ? yes : 'next'), ...last];
  }
  const isEquality = op === compares.SCMP_CMP_EQ || op === compares.SCMP_CMP_NE;
  const isStrict = op === compares.SCMP_CMP_GT || op === compares.SCMP_CMP_LE;
  const test = isEquality ? BPF.jumpEqual : isStrict ? BPF.jumpGreater : BPF.jumpGreaterEqual;
  const lowHalf: Step[] = [load('low'), { code: test, k: Number(low(value)), onTrue: yes, onFalse: no }];
  if (argumentBits === 32) return lowHalf;
  const isAbove: Step[] = isEquality ? [] : [{ code: BPF.jumpGreater, k: Number(high(value)), onTrue: yes, onFalse: 'next' }];
  return [load('high'), ...isAbove, isEqual(high(value), 'next'), ...lowHalf];
}

/** Continues with one of two parts. */
function branch(test: Pick<Instruction, 'code' | 'k'>, whenTrue: readonly Instruction[], whenFalse: readonly Instruction[]): Instruction[] {
  const distance = whenFalse.length;
  const jumps =
    distance <= offsetMax
      ? [{ ...test, onTrue: distance }]
      : [
          { ...test, onFalse: 1 },
          { code: BPF.jump, k: distance },
        ];
  return [...jumps, ...whenFalse, ...whenTrue];
}

const returns = (action: number): Instruction => ({ code: BPF.return, k: action });

/** Encodes struct sock_filter: code u16, offsets of both branches u8, k u32. */
function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(8 * instructions.length);
  instructions.forEach(({ code, k, onTrue = 0, onFalse = 0 }, i) => {
    bytes.writeUInt16LE(code, 8 * i);
    bytes.writeUInt8(onTrue, 8 * i + 2);
    bytes.writeUInt8(onFalse, 8 * i + 3);
    bytes.writeUInt32LE(k, 8 * i + 4);
  });
  return bytes;
}
