/**
 * What the rules of a seccomp profile say of a call, read one by one: the expected result of a program.
 */
import assert from 'node:assert/strict';
import type { ResolvedArg, ResolvedProfile } from '../../src/engine/seccomp/seccomp.ts';

/**
 * Returns the action for a call that the profile knows.
 *
 * @param names the names of the call.
 * @param bits the size of an argument: 32 for the ABIs i386, x32 and arm.
 */
export function actionByRules(profile: ResolvedProfile, names: readonly string[], args: readonly bigint[], bits: 32 | 64 = 64): number {
  const rules = profile.rules.filter(({ syscalls }) => syscalls.some((name) => names.includes(name)));
  const isUnconditional = (rule: (typeof rules)[number]) => rule.args.every(({ op, value }) => op === 7 && BigInt.asUintN(bits, value) === 0n);
  const met = rules.filter((rule) => rule.args.every((condition) => isMet(condition, args[condition.index] ?? 0n, bits)));
  // The sort is stable.
  const [strictest] = met.toSorted((a, b) => restriction(a.action) - restriction(b.action));
  return (rules.find(isUnconditional) ?? strictest ?? { action: profile.defaultAction }).action >>> 0;
}

/** Numbers of the kinds of actions, from seccomp(2): the action of the first one is used if several filters apply. */
const kinds = [0x80000000, 0x00000000, 0x00030000, 0x00050000, 0x7ff00000, 0x7ffc0000, 0x7fff0000];
const restriction = (action: number): number => kinds.indexOf((action & 0xffff0000) >>> 0);

/** Numbers are those of enum scmp_compare in seccomp.h. A masked comparison ignores bits outside of the mask, as in libseccomp. */
function isMet(condition: ResolvedArg, argument: bigint, bits: 32 | 64): boolean {
  const [value, valueTwo, arg] = ([condition.value, condition.valueTwo, argument] as const).map((each) => BigInt.asUintN(bits, each)) as [
    bigint,
    bigint,
    bigint,
  ];
  const results = [false, arg !== value, arg < value, arg <= value, arg === value, arg >= value, arg > value, (arg & value) === (valueTwo & value)];
  return results[condition.op] ?? assert.fail(`comparison ${condition.op}`);
}
