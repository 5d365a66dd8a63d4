/**
 * Resolves a seccomp profile for one process: the rules that apply to its capabilities, machine and kernel, as numbers.
 *
 * Pure. seccomp-compiler.ts builds the program.
 */
import { unimplemented } from '../../lib/errors.ts';
import { capabilityNumber } from '../plan/capabilities.ts';
import { type ActionName, actions, type Condition, compares, type SeccompArg, type SeccompRule, type SeccompRules } from './seccomp-profile.ts';

export type SeccompContext = {
  /** The container's bounding set; bit n = capability number n. */
  readonly capabilities: bigint;
  /** As in process.arch: `x64`, `arm64`. */
  readonly arch: string;
  /** The release of uname(2): `6.18.44-cloud`. */
  readonly kernel: string;
};

export type ResolvedArg = { readonly index: number; readonly op: number; readonly value: bigint; readonly valueTwo: bigint };
export type ResolvedRule = { readonly syscalls: readonly string[]; readonly action: number; readonly args: readonly ResolvedArg[] };

/** A profile without conditions. Actions are the kernel's numbers, comparisons are libseccomp's. */
export type ResolvedProfile = {
  readonly defaultAction: number;
  /** libseccomp's names, the machine's own first. */
  readonly architectures: readonly string[];
  /** SECCOMP_FILTER_FLAG bits. */
  readonly flags: number;
  readonly rules: readonly ResolvedRule[];
  /** Every system call that the profile mentions, even in a rule that does not apply: the calls that its author knew. */
  readonly mentioned: ReadonlySet<string>;
};

type Machine = { readonly go: string; readonly native: string; readonly architectures: Readonly<Record<string, string>> };

/** By process.arch: Go's name, and the architectures that the machine can execute, from OCI name to libseccomp's name. */
const machines: Readonly<Record<string, Machine>> = {
  x64: { go: 'amd64', native: 'SCMP_ARCH_X86_64', architectures: { SCMP_ARCH_X86_64: 'x86_64', SCMP_ARCH_X86: 'x86', SCMP_ARCH_X32: 'x32' } },
  arm64: { go: 'arm64', native: 'SCMP_ARCH_AARCH64', architectures: { SCMP_ARCH_AARCH64: 'aarch64', SCMP_ARCH_ARM: 'arm' } },
};

/**
 * Resolves a profile. Omits rules whose conditions fail, rules whose action is the default action, and architectures of other machines.
 * A rule with two comparisons of one argument becomes one rule for each comparison, as in runc: libseccomp accepts one comparison for each argument.
 *
 * @throws {BerthError} UNIMPLEMENTED on a machine that is neither x64 nor arm64.
 */
export function resolveProfile(profile: SeccompRules, context: SeccompContext): ResolvedProfile {
  const machine = machines[context.arch];
  if (machine === undefined) throw unimplemented(`seccomp profile: unsupported architecture ${context.arch}`);
  const defaultAction = actionValue(profile.defaultAction, profile.defaultErrno);
  const rules = profile.rules.filter((rule) => isIncluded(rule.includes, machine, context) && !isExcluded(rule.excludes, machine, context));
  return {
    defaultAction,
    architectures: architecturesOf(profile, machine),
    flags: profile.flags,
    rules: rules.flatMap(resolveRule).filter(({ action }) => action !== defaultAction),
    mentioned: new Set(profile.rules.flatMap((rule) => rule.names)),
  };
}

/** Returns a resolved profile as text, which is equal for equal content. */
export function describeProfile(profile: ResolvedProfile): string {
  const arg = ({ index, op, value, valueTwo }: ResolvedArg): string => ` a${index} op${op} ${value} ${valueTwo}`;
  const rules = profile.rules.map(({ syscalls, action, args }) => `0x${action.toString(16)}${args.map(arg).join('')}: ${syscalls.join(' ')}`);
  const head = `default=0x${profile.defaultAction.toString(16)} flags=${profile.flags} architectures=${profile.architectures.join(',')}`;
  return [head, ...rules, `mentioned: ${[...profile.mentioned].join(' ')}`].join('\n');
}

function isIncluded(condition: Condition, machine: Machine, context: SeccompContext): boolean {
  if (condition.arches.length > 0 && !condition.arches.includes(machine.go)) return false;
  if (condition.minKernel !== undefined && !isAtLeast(context.kernel, condition.minKernel)) return false;
  return condition.capabilities.every((name) => holds(context.capabilities, name));
}

function isExcluded(condition: Condition, machine: Machine, context: SeccompContext): boolean {
  if (condition.arches.includes(machine.go)) return true;
  if (condition.minKernel !== undefined && isAtLeast(context.kernel, condition.minKernel)) return true;
  return condition.capabilities.some((name) => holds(context.capabilities, name));
}

function isAtLeast(kernel: string, [major, minor]: readonly [number, number]): boolean {
  const [ownMajor = 0, ownMinor = 0] = kernel.split(/[.-]/).map(Number);
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}

function holds(capabilities: bigint, name: string): boolean {
  const number = capabilityNumber(name);
  return number !== undefined && ((capabilities >> BigInt(number)) & 1n) === 1n;
}

/** Docker's map lists the architectures for this machine, the OCI list those for all machines. The machine's own is always included. */
function architecturesOf(profile: SeccompRules, machine: Machine): string[] {
  const mapped = profile.archMap.filter(({ architecture }) => architecture === machine.native).flatMap(({ subArchitectures }) => subArchitectures);
  const names = new Set([machine.native, ...profile.architectures, ...mapped]);
  return [...names].flatMap((name) => machine.architectures[name] ?? []);
}

function resolveRule(rule: SeccompRule): ResolvedRule[] {
  const action = actionValue(rule.action, rule.errno);
  const args = rule.args.map(resolveArg);
  const isRepeated = new Set(args.map(({ index }) => index)).size < args.length;
  return (isRepeated ? args.map((arg) => [arg]) : [args]).map((args) => ({ syscalls: rule.names, action, args }));
}

function resolveArg({ index, op, value, valueTwo }: SeccompArg): ResolvedArg {
  return { index, op: compares[op], value, valueTwo };
}

function actionValue(action: ActionName, errno: number): number {
  const hasNumber = action === 'SCMP_ACT_ERRNO' || action === 'SCMP_ACT_TRACE';
  return hasNumber ? actions[action] + errno : actions[action];
}
