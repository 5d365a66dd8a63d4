/**
 * Decides what each system call number gets on one ABI: an action, or checks of the arguments that lead to one.
 *
 * Pure. If several rules apply to a call:
 * - A rule without conditions takes precedence over those with conditions, and the first of them over the others. libseccomp, which runc uses, has the same order.
 * - Otherwise the most restrictive action of the rules whose conditions are met applies. This is the kernel's order for several filters (seccomp(2)). The order
 *   of libseccomp depends on the numbers of the arguments and their values.
 * - Rules with the same conditions and different actions are an error.
 */
import { invalidArgument } from '../../lib/errors.ts';
import type { ResolvedArg, ResolvedProfile } from './seccomp.ts';
import { type Abi, abiOf, isSeparate, type Place, placesOf, type SyscallNumber } from './seccomp-abi.ts';
import { compares } from './seccomp-profile.ts';

/** All conditions must be met. The values of MASKED_EQ have no bits outside of the mask. */
export type Check = { readonly conditions: readonly ResolvedArg[]; readonly action: number };

/** The first check that matches decides. */
export type Outcome = { readonly checks: readonly Check[] /** If no check matches. */; readonly action: number };

/** The outcome of the numbers from `from` to the one before the next segment. */
export type Segment = { readonly from: number; readonly outcome: Outcome };

/** Each check needs at least three of the kernel's 4096 instructions (BPF_MAXINSNS): load, compare, return. */
const checksMax = Math.floor(4096 / 3);

const ERRNO_ENOSYS = 0x00050000 + 38;
/** Actions from LOG on allow the call. */
const permissive = 0x7ffc0000;
/** A tracer can emulate calls that the profile does not know. */
const TRACE_KIND = 0x7ff0;

/**
 * Returns the outcome of every number, the first segment from 0 on.
 *
 * Calls that did not exist when the profile was written return ENOSYS instead of its default, because C libraries fall back to older calls only on
 * ENOSYS. runc does the same for that reason (libcontainer/seccomp/patchbpf).
 *
 * @param architecture libseccomp's name.
 * @throws {BerthError} INVALID_ARGUMENT for rules that contradict each other, or that need a larger program than the kernel accepts.
 */
export function planCalls(profile: ResolvedProfile, architecture: string, numberOf: SyscallNumber): Segment[] {
  const abi = abiOf(architecture);
  const known = new Map<string, Place[]>();
  const places = (name: string): Place[] => {
    const found = known.get(name) ?? placesOf(abi, name, (call) => numberOf(call, architecture));
    known.set(name, found);
    return found;
  };
  const outcomes = planOutcomes(profile, abi, places);
  const mentioned = [...profile.mentioned].flatMap(places).map(({ number }) => number);
  const newest = mentioned.filter((number) => !isSeparate(abi, number)).reduce((a, b) => Math.max(a, b), -1);
  const rejectsNewer = newest >= 0 && !allows(profile.defaultAction);
  const outcomeOf = (number: number): Outcome => {
    const isNewer = rejectsNewer && number > newest && !isSeparate(abi, number);
    return outcomes.get(number) ?? { checks: [], action: isNewer ? ERRNO_ENOSYS : profile.defaultAction };
  };
  const [first, last] = abi.separate ?? [0, -1];
  const edges = new Set([0, newest + 1, first, last + 1, ...[...outcomes.keys()].flatMap((number) => [number, number + 1])]);
  return merged([...edges].sort((a, b) => a - b).map((from) => ({ from, outcome: outcomeOf(from) })));
}

/** Returns number to outcome of the calls that have a rule. */
function planOutcomes(profile: ResolvedProfile, abi: Abi, places: (name: string) => Place[]): Map<number, Outcome> {
  const checks = new Map<number, Map<string, Check & { readonly name: string }>>();
  const outcomes = new Map<number, Outcome>();
  const rules = profile.rules.map(({ syscalls, action, args }) => ({ syscalls: new Set(syscalls), action, conditions: conditionsOf(args, abi) }));
  const each = (isConditional: boolean, visit: (check: Check & Place & { readonly name: string }) => void): void => {
    for (const { syscalls, action, conditions } of rules) {
      for (const name of syscalls) {
        for (const place of places(name)) {
          const own = place.operation === undefined ? conditions : withOperation(conditions, place.operation);
          if (own.length > 0 === isConditional) visit({ ...place, name, action, conditions: own });
        }
      }
    }
  };
  each(false, ({ number, action }) => {
    if (!outcomes.has(number)) outcomes.set(number, { checks: [], action });
  });
  let count = 0;
  each(true, ({ number, name, action, conditions }) => {
    if (outcomes.has(number)) return;
    const known = checks.get(number) ?? new Map<string, Check & { readonly name: string }>();
    checks.set(number, known);
    const key = describeConditions(conditions);
    const same = known.get(key);
    if (same === undefined) {
      if (++count > checksMax) throw invalidArgument("the program exceeds the kernel's limit of 4096 instructions");
      known.set(key, { conditions, action, name });
    } else if (same.action !== action) {
      throw invalidArgument(`rules for ${name} have different actions for the same arguments`);
    }
  });
  for (const [number, known] of checks) outcomes.set(number, { checks: byRestriction([...known.values()]), action: profile.defaultAction });
  return outcomes;
}

/** As libseccomp: 32-bit ABIs compare the low 32 bits, so that negative numbers match, and bits outside of a mask do not count. Conditions that are always met are omitted. */
function conditionsOf(args: readonly ResolvedArg[], { argumentBits }: Abi): ResolvedArg[] {
  const word = (value: bigint): bigint => BigInt.asUintN(argumentBits, value);
  return args
    .map(({ index, op, value, valueTwo }) => {
      const isMasked = op === compares.SCMP_CMP_MASKED_EQ;
      return { index, op, value: word(value), valueTwo: isMasked ? word(value & valueTwo) : 0n };
    })
    .filter(({ op, value }) => op !== compares.SCMP_CMP_MASKED_EQ || value !== 0n)
    .sort((a, b) => a.index - b.index);
}

/**
 * As libseccomp: the operation takes the place of the condition on the first argument. The call's own arguments are in memory, where a program cannot read them.
 */
function withOperation(conditions: readonly ResolvedArg[], operation: number): ResolvedArg[] {
  const first = { index: 0, op: compares.SCMP_CMP_EQ, value: BigInt(operation), valueTwo: 0n };
  return [first, ...conditions.filter(({ index }) => index !== 0)];
}

/** Most restrictive first: KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW are in the order of their signed numbers (kernel/seccomp.c, ACTION_ONLY). */
function byRestriction(checks: readonly Check[]): Check[] {
  const kind = ({ action }: Check): number => (action & 0xffff0000) | 0;
  return [...checks].sort((a, b) => kind(a) - kind(b));
}

/** Joins neighbors with the same outcome. */
function merged(segments: readonly Segment[]): Segment[] {
  const texts = segments.map(({ outcome }) => describeOutcome(outcome));
  return segments.filter((_, i) => i === 0 || texts[i] !== texts[i - 1]);
}

function describeConditions(conditions: readonly ResolvedArg[]): string {
  return conditions.map(({ index, op, value, valueTwo }) => `a${index} op${op} ${value} ${valueTwo}`).join(', ');
}

function describeOutcome({ checks, action }: Outcome): string {
  return [...checks.map((check) => `${describeConditions(check.conditions)}: ${check.action}`), action].join('; ');
}

const allows = (action: number): boolean => (action >= permissive && action < 0x80000000) || action >>> 16 === TRACE_KIND;
