/**
 * Reads a seccomp profile: the OCI runtime spec's format (config-linux.md, Seccomp) with the fields that Docker's own profiles add.
 *
 * Pure. The text is untrusted; what it means on a machine is resolved in seccomp.ts. Unknown fields are passed over, as the OCI asks.
 */
import { type BerthError, invalidArgument, reasonOf, unimplemented } from '../../lib/errors.ts';

export type ActionName = keyof typeof actions;
export type CompareName = keyof typeof compares;

/** What a filter returns to the kernel: include/uapi/linux/seccomp.h. ERRNO and TRACE carry a number in the low half. */
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

/** Flags of seccomp(2) that need no listener. */
const flagBits = { SECCOMP_FILTER_FLAG_TSYNC: 1, SECCOMP_FILTER_FLAG_LOG: 2, SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4 } as const;
const listenerFlags = ['SECCOMP_FILTER_FLAG_NEW_LISTENER', 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV', 'SECCOMP_FILTER_FLAG_TSYNC_ESRCH'];

export type SeccompArg = { readonly index: number; readonly op: CompareName; readonly value: bigint; readonly valueTwo: bigint };

/** When a rule counts. Empty: always. */
export type Condition = {
  /** `CAP_SYS_ADMIN` and the like. */
  readonly capabilities: readonly string[];
  /** As Go names them: `amd64`, `arm64`, `x32`. */
  readonly arches: readonly string[];
  /** `[4, 8]`: this kernel or a newer one. */
  readonly minKernel: readonly [number, number] | undefined;
};

export type SeccompRule = {
  readonly names: readonly string[];
  readonly action: ActionName;
  /** Returned by ERRNO, told to the tracer by TRACE. */
  readonly errno: number;
  readonly args: readonly SeccompArg[];
  /** All capabilities, one of the arches, and the kernel must be there. */
  readonly includes: Condition;
  /** One capability, one of the arches, or the kernel is enough. */
  readonly excludes: Condition;
};

export type SeccompRules = {
  readonly defaultAction: ActionName;
  readonly defaultErrno: number;
  /** `SCMP_ARCH_X86_64` and the like, besides the machine's own. */
  readonly architectures: readonly string[];
  /** Docker's form: what goes with which architecture of a machine. */
  readonly archMap: readonly { readonly architecture: string; readonly subArchitectures: readonly string[] }[];
  /** SECCOMP_FILTER_FLAG bits. */
  readonly flags: number;
  readonly rules: readonly SeccompRule[];
};

const EPERM = 1;
/** Larger numbers are cut by the kernel: MAX_ERRNO. */
const errnoMax = 4095;
/** A profile that allows everything known, call by call with arguments, is a tenth of these. */
const jsonCharsMax = 1024 * 1024;
const rulesMax = 2048;
const namesMax = 4096;

export const noCondition: Condition = { capabilities: [], arches: [], minKernel: undefined };

/**
 * @param json the file's text, at most 1 MiB.
 * @param where names the profile in messages: its path.
 * @throws {BerthError} INVALID_ARGUMENT with the path of the bad field; UNIMPLEMENTED for SCMP_ACT_NOTIFY and what belongs to it.
 */
export function parseSeccompProfile(json: string, where: string): SeccompRules {
  const root = field({ value: parseJson(json, where), path: '', where });
  if (has(at(root, 'listenerPath'))) throw noListener(at(root, 'listenerPath'));
  const rules = list(at(root, 'syscalls'), rulesMax).map(parseRule);
  const names = rules.reduce((sum, rule) => sum + rule.names.length, 0);
  if (names > namesMax) throw bad(at(root, 'syscalls'), `${names} names are more than ${namesMax}`);
  const architectures = list(at(root, 'architectures'), 64).map(architecture);
  const archMap = list(at(root, 'archMap'), 64).map(parseArchEntry);
  if (architectures.length > 0 && archMap.length > 0) throw bad(at(root, 'archMap'), 'either this or architectures can be given');
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
  if (has(name) && list(names, namesMax).length > 0) throw bad(name, 'either this or names can be given');
  const named = has(name) ? [text(name)] : list(names, namesMax).map(text);
  if (named.length === 0) throw bad(names, 'names no system call');
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
  if (has(kernel) && major === undefined) throw bad(kernel, 'must be like "4.8"');
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
  throw bad(node, `${shown(name)} is no architecture (SCMP_ARCH_...)`);
}

/** A value of the document, and where it stands. */
type Node = { readonly value: unknown; readonly path: string; readonly where: string };
type Fields = Node & { readonly value: Readonly<Record<string, unknown>> };

function parseJson(json: string, where: string): unknown {
  if (json.length > jsonCharsMax) throw invalidArgument(`seccomp profile ${where}: longer than ${jsonCharsMax} characters`);
  try {
    return JSON.parse(json, exactInteger as (key: string, value: unknown) => unknown);
  } catch (error) {
    throw invalidArgument(`seccomp profile ${where}: ${reasonOf(error).split('\n')[0]}`, error);
  }
}

/** A mask such as 18446744073709551615 is no JavaScript number: its digits become a bigint. */
function exactInteger(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== 'number' || Number.isSafeInteger(value)) return value;
  return context?.source !== undefined && /^\d{1,20}$/.test(context.source) ? BigInt(context.source) : value;
}

/** Null means the same as an absent field, as in Go. */
const has = (node: Node): boolean => node.value !== undefined && node.value !== null && node.value !== '';

function at(parent: Fields, name: string): Node {
  const value = Object.hasOwn(parent.value, name) ? parent.value[name] : undefined;
  return { value, path: parent.path === '' ? name : `${parent.path}.${name}`, where: parent.where };
}

function field(node: Node): Fields {
  if (typeof node.value === 'object' && node.value !== null && !Array.isArray(node.value)) return node as Fields;
  throw bad(node, 'must be an object');
}

function list(node: Node, lengthMax: number): Node[] {
  if (!has(node)) return [];
  if (!Array.isArray(node.value)) throw bad(node, 'must be a list');
  if (node.value.length > lengthMax) throw bad(node, `has ${node.value.length} entries, more than ${lengthMax}`);
  return node.value.map((value: unknown, i) => ({ value, path: `${node.path}[${i}]`, where: node.where }));
}

/** Names in a profile are identifiers; anything else could not mean something to the kernel. */
function text(node: Node): string {
  if (typeof node.value === 'string' && /^[\w.]{1,64}$/.test(node.value)) return node.value;
  throw bad(node, 'must be a name of at most 64 letters, digits, "_" and "."');
}

function oneOf<T extends object>(node: Node, table: T): keyof T & string {
  if (node.value === 'SCMP_ACT_NOTIFY') throw noListener(node);
  if (typeof node.value === 'string' && Object.hasOwn(table, node.value)) return node.value as keyof T & string;
  throw bad(node, `${has(node) ? shown(node.value) : 'nothing'} is none of ${Object.keys(table).join(', ')}`);
}

function integer(node: Node, max: number, otherwise?: number): number {
  if (!has(node) && otherwise !== undefined) return otherwise;
  if (typeof node.value === 'number' && Number.isInteger(node.value) && node.value >= 0 && node.value <= max) return node.value;
  throw bad(node, `must be an integer from 0 to ${max}`);
}

function word(node: Node): bigint {
  if (!has(node)) return 0n;
  const isInteger = typeof node.value === 'bigint' || (typeof node.value === 'number' && Number.isSafeInteger(node.value));
  const value = isInteger ? BigInt(node.value as bigint | number) : -1n;
  if (value >= 0n && value < 1n << 64n) return value;
  throw bad(node, 'must be an integer from 0 to 2^64 - 1');
}

function bad(node: Node, reason: string): BerthError {
  return invalidArgument(`seccomp profile ${node.where}: ${node.path || 'the document'}: ${reason}`);
}

function noListener(node: Node): BerthError {
  return unimplemented(`seccomp profile ${node.where}: ${node.path}: notification of a listener (SCMP_ACT_NOTIFY) is not supported`);
}

const shown = (value: unknown): string => (typeof value === 'string' ? JSON.stringify(value.slice(0, 64)) : `what is no text (${typeof value})`);
