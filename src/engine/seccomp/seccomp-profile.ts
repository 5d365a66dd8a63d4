/**
 * Parses a seccomp profile: the format of the OCI runtime spec (config-linux.md, Seccomp) with the additional fields of Docker's profiles.
 *
 * Pure. The text is untrusted. seccomp.ts resolves the profile for a machine. Unknown fields are ignored, as the OCI spec requires.
 */
import { type BerthError, invalidArgument, reasonOf, unimplemented } from '../../lib/errors.ts';

export type ActionName = keyof typeof actions;
export type CompareName = keyof typeof compares;

/** Return values of a filter: include/uapi/linux/seccomp.h. The low 16 bits of ERRNO and TRACE are a number. */
export const actions = {
  SCMP_ACT_KILL: 0x00000000,
  SCMP_ACT_KILL_THREAD: 0x00000000,
  SCMP_ACT_KILL_PROCESS: 0x80000000,
  SCMP_ACT_TRAP: 0x00030000,
  SCMP_ACT_ERRNO: 0x00050000,
  SCMP_ACT_TRACE: 0x7ff00000,
  SCMP_ACT_LOG: 0x7ffc0000,
  SCMP_ACT_ALLOW: 0x7fff0000,
} as const;

/** enum scmp_compare of libseccomp's seccomp.h. */
export const compares = {
  SCMP_CMP_NE: 1,
  SCMP_CMP_LT: 2,
  SCMP_CMP_LE: 3,
  SCMP_CMP_EQ: 4,
  SCMP_CMP_GE: 5,
  SCMP_CMP_GT: 6,
  SCMP_CMP_MASKED_EQ: 7,
} as const;

/** Flags of seccomp(2) that work without a listener. */
const flagBits = { SECCOMP_FILTER_FLAG_TSYNC: 1, SECCOMP_FILTER_FLAG_LOG: 2, SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4 } as const;
const listenerFlags = ['SECCOMP_FILTER_FLAG_NEW_LISTENER', 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV', 'SECCOMP_FILTER_FLAG_TSYNC_ESRCH'];

export type SeccompArg = { readonly index: number; readonly op: CompareName; readonly value: bigint; readonly valueTwo: bigint };

/** When a rule applies. Empty: always. */
export type Condition = {
  /** Such as `CAP_SYS_ADMIN`. */
  readonly capabilities: readonly string[];
  /** Go's names: `amd64`, `arm64`, `x32`. */
  readonly arches: readonly string[];
  /** `[4, 8]`: Linux 4.8 or later. */
  readonly minKernel: readonly [number, number] | undefined;
};

export type SeccompRule = {
  readonly names: readonly string[];
  readonly action: ActionName;
  /** Returned by ERRNO, passed to the tracer by TRACE. */
  readonly errno: number;
  readonly args: readonly SeccompArg[];
  /** The rule applies only if the container has all capabilities, the machine is one of the arches, and the kernel is recent enough. */
  readonly includes: Condition;
  /** The rule does not apply if the container has any of the capabilities, the machine is one of the arches, or the kernel is recent enough. */
  readonly excludes: Condition;
};

export type SeccompRules = {
  readonly defaultAction: ActionName;
  readonly defaultErrno: number;
  /** In addition to the machine's own, such as `SCMP_ARCH_X86_64`. */
  readonly architectures: readonly string[];
  /** Docker's format: additional architectures by the architecture of the machine. */
  readonly archMap: readonly { readonly architecture: string; readonly subArchitectures: readonly string[] }[];
  /** SECCOMP_FILTER_FLAG bits. */
  readonly flags: number;
  readonly rules: readonly SeccompRule[];
};

const EPERM = 1;
/** libseccomp's limit: below MAX_ERRNO, which is 4095 (src/db.c, src/system.c). The kernel caps larger numbers. */
const errnoMax = 4094;
/** Limits of a profile. One that lists every known system call with arguments needs a tenth of them. */
const jsonCharsMax = 1024 * 1024;
const rulesMax = 2048;
const namesMax = 4096;

export const noCondition: Condition = { capabilities: [], arches: [], minKernel: undefined };

/**
 * Parses a profile.
 *
 * @param json the text of the file, at most 1 MiB.
 * @param where the name of the profile in messages: its path.
 * @throws {BerthError} INVALID_ARGUMENT with the path of the invalid field; UNIMPLEMENTED for SCMP_ACT_NOTIFY and its related fields.
 */
export function parseSeccompProfile(json: string, where: string): SeccompRules {
  const root = field({ value: parseJson(json, where), path: '', where });
  if (has(at(root, 'listenerPath'))) throw noListener(at(root, 'listenerPath'));
  const rules = list(at(root, 'syscalls'), rulesMax).map(parseRule);
  const names = rules.reduce((sum, rule) => sum + rule.names.length, 0);
  if (names > namesMax) throw invalid(at(root, 'syscalls'), `${names} names exceed the limit of ${namesMax}`);
  const architectures = list(at(root, 'architectures'), 64).map(architecture);
  const archMap = list(at(root, 'archMap'), 64).map(parseArchEntry);
  if (architectures.length > 0 && archMap.length > 0) throw invalid(at(root, 'archMap'), 'mutually exclusive with architectures');
  return {
    defaultAction: oneOf(at(root, 'defaultAction'), actions),
    defaultErrno: integer(at(root, 'defaultErrnoRet'), errnoMax, EPERM),
    architectures,
    archMap,
    flags: list(at(root, 'flags'), 64).reduce((bits, flag) => bits | parseFlag(flag), 0),
    rules,
  };
}

function parseRule(node: Node): SeccompRule {
  const rule = field(node);
  const [name, names] = [at(rule, 'name'), at(rule, 'names')];
  if (has(name) && list(names, namesMax).length > 0) throw invalid(name, 'mutually exclusive with names');
  const named = has(name) ? [text(name)] : list(names, namesMax).map(text);
  if (named.length === 0) throw invalid(names, 'missing system calls');
  return {
    names: named,
    action: oneOf(at(rule, 'action'), actions),
    errno: integer(at(rule, 'errnoRet'), errnoMax, EPERM),
    args: list(at(rule, 'args'), 64).map(parseArg),
    includes: parseCondition(at(rule, 'includes')),
    excludes: parseCondition(at(rule, 'excludes')),
  };
}

function parseArg(node: Node): SeccompArg {
  const arg = field(node);
  return {
    index: integer(at(arg, 'index'), 5),
    op: oneOf(at(arg, 'op'), compares),
    value: word(at(arg, 'value')),
    valueTwo: word(at(arg, 'valueTwo')),
  };
}

function parseCondition(node: Node): Condition {
  if (!has(node)) return noCondition;
  const condition = field(node);
  const kernel = at(condition, 'minKernel');
  const [, major, minor] = has(kernel) ? (/^(\d{1,4})\.(\d{1,4})$/.exec(text(kernel)) ?? []) : [];
  if (has(kernel) && major === undefined) throw invalid(kernel, 'must be a version such as "4.8"');
  return {
    capabilities: list(at(condition, 'caps'), 64).map(text),
    arches: list(at(condition, 'arches'), 64).map(text),
    minKernel: major === undefined ? undefined : [Number(major), Number(minor)],
  };
}

function parseArchEntry(node: Node): { architecture: string; subArchitectures: string[] } {
  const entry = field(node);
  return { architecture: architecture(at(entry, 'architecture')), subArchitectures: list(at(entry, 'subArchitectures'), 64).map(architecture) };
}

function parseFlag(node: Node): number {
  if (typeof node.value === 'string' && listenerFlags.includes(node.value)) throw noListener(node);
  return flagBits[oneOf(node, flagBits)];
}

function architecture(node: Node): string {
  const name = text(node);
  if (/^SCMP_ARCH_[A-Z0-9_]{1,24}$/.test(name)) return name;
  throw invalid(node, `invalid architecture ${JSON.stringify(name)}: want SCMP_ARCH_...`);
}

/** A value of the document, with its path and the name of the profile. */
type Node = { readonly value: unknown; readonly path: string; readonly where: string };
type Fields = Node & { readonly value: Readonly<Record<string, unknown>> };

function parseJson(json: string, where: string): unknown {
  if (json.length > jsonCharsMax) throw invalidArgument(`seccomp profile ${where}: ${json.length} characters exceed the limit of ${jsonCharsMax}`);
  try {
    return JSON.parse(json, exactInteger as (key: string, value: unknown) => unknown);
  } catch (error) {
    throw invalidArgument(`seccomp profile ${where}: ${reasonOf(error).split('\n')[0]}`, error);
  }
}

/** Converts an integer that a JavaScript number cannot represent, such as the mask 18446744073709551615, to a bigint. */
function exactInteger(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  return context?.source !== undefined && /^\d{1,20}$/.test(context.source) ? BigInt(context.source) : value;
}

/** Null means absent, as in Go. */
const has = (node: Node): boolean => node.value !== undefined && node.value !== null && node.value !== '';

function at(parent: Fields, name: string): Node {
  const value = Object.hasOwn(parent.value, name) ? parent.value[name] : undefined;
  return { value, path: parent.path === '' ? name : `${parent.path}.${name}`, where: parent.where };
}

function field(node: Node): Fields {
  if (typeof node.value === 'object' && node.value !== null && !Array.isArray(node.value)) return node as Fields;
  throw invalid(node, 'must be an object');
}

function list(node: Node, lengthMax: number): Node[] {
  if (!has(node)) return [];
  if (!Array.isArray(node.value)) throw invalid(node, 'must be a list');
  if (node.value.length > lengthMax) throw invalid(node, `${node.value.length} entries exceed the limit of ${lengthMax}`);
  return node.value.map((value: unknown, i) => ({ value, path: `${node.path}[${i}]`, where: node.where }));
}

/** Names in a profile are identifiers. */
function text(node: Node): string {
  if (typeof node.value === 'string' && /^[\w.]{1,64}$/.test(node.value)) return node.value;
  throw invalid(node, 'must be a name of at most 64 letters, digits, "_" and "."');
}

function oneOf<T extends object>(node: Node, table: T): keyof T & string {
  if (node.value === 'SCMP_ACT_NOTIFY') throw noListener(node);
  if (typeof node.value === 'string' && Object.hasOwn(table, node.value)) return node.value as keyof T & string;
  throw invalid(node, `${has(node) ? `unknown value ${shown(node.value)}` : 'missing value'}; want one of ${Object.keys(table).join(', ')}`);
}

function integer(node: Node, max: number, defaultValue?: number): number {
  if (!has(node) && defaultValue !== undefined) return defaultValue;
  if (typeof node.value === 'number' && Number.isInteger(node.value) && node.value >= 0 && node.value <= max) return node.value;
  throw invalid(node, `must be an integer from 0 to ${max}`);
}

function word(node: Node): bigint {
  if (!has(node)) return 0n;
  const isInteger = typeof node.value === 'bigint' || (typeof node.value === 'number' && Number.isSafeInteger(node.value));
  const value = isInteger ? BigInt(node.value as bigint | number) : -1n;
  if (value >= 0n && value < 1n << 64n) return value;
  throw invalid(node, 'must be an integer from 0 to 2^64 - 1');
}

function invalid(node: Node, reason: string): BerthError {
  return invalidArgument(`seccomp profile ${node.where}: ${node.path || 'the document'}: ${reason}`);
}

function noListener(node: Node): BerthError {
  return unimplemented(`seccomp profile ${node.where}: ${node.path}: seccomp notification (SCMP_ACT_NOTIFY) is not supported`);
}

const shown = (value: unknown): string => (typeof value === 'string' ? JSON.stringify(value.slice(0, 64)) : `of type ${typeof value}`);
