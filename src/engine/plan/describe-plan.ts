/**
 * Formats a plan as text: one line for each operation, flags by name. For `berth explain` and the golden tests.
 *
 * Pure. Shows only the names of environment variables: their values may be secrets.
 */
import {
  AT,
  CLONE,
  CLOSE_RANGE,
  FS_MAGIC,
  FSOPEN,
  IOCTL,
  KEY,
  KEY_SPEC,
  KEYCTL,
  MNT,
  MOUNT_ATTR,
  MOVE_MOUNT,
  MS,
  O,
  OPEN_TREE,
  PR,
  RESOLVE,
  RLIMIT,
  S_IF,
} from './abi.ts';
import type { ArgKind, ArgValues } from './calls.ts';
import { argsOf, type Bytes, type Op, type Plan } from './plan.ts';

/** Returns the text of a plan, in the order in which it runs. */
export function describePlan(plan: Plan): string {
  const namespaces = flagNames(CLONE, plan.clone.namespaces);
  return [
    `inherit ${plan.fds.join(' ')}`,
    ...plan.parent.map((op) => `parent ${describeOp(op)}`),
    `clone namespaces=${namespaces}${plan.clone.cgroup ? ` cgroup=@${plan.clone.cgroup}` : ''}`,
    ...plan.child.map((op) => `child ${describeOp(op)}`),
    ...(plan.confine ?? []).map((op) => `monitor ${describeOp(op)}`),
    `process argv=${JSON.stringify(plan.process.argv.map(String))} env=${JSON.stringify(plan.process.env.map(envName))}`,
    describeSupervise(plan),
  ].join('\n');
}

/** Returns `mkdirat dir=@root path="dev" mode=0755 # create directory /dev`; registers are prefixed with @. */
function describeOp(op: Op): string {
  const args = argsOf(op).map(({ name, kind, value }) => ` ${name}=${describeArg(op, name, kind, value)}`);
  const out = op.out === undefined ? '' : ` -> @${op.out}`;
  const tolerate = op.tolerate === undefined ? '' : ` tolerate=${op.tolerate.join('|')}`;
  return `${op.call}${args.join('')}${out}${tolerate} # ${op.note}`;
}

function describeSupervise(plan: Plan): string {
  const { mode, ...rest } = plan.supervise;
  const parts = Object.entries(rest).map(([name, value]) => ` ${name}=${JSON.stringify(value)}`);
  return `supervise ${mode}${parts.join('')}`;
}

const envName = (variable: Bytes): string => String(variable).split('=', 1)[0] ?? '';

function describeArg(op: Op, name: string, kind: ArgKind, value: unknown): string {
  // It is a secret: process-setup.ts.
  if (op.call === 'keyctl' && name === 'name') return '…';
  if (op.call === 'keyctl_setperm' && name === 'permissions') return flagNames(KEY, Number(value));
  const set = kind === 'number' ? enumOf(op, name) : undefined;
  if (set !== undefined) return Object.entries(set).find(([, number]) => number === value)?.[0] ?? String(value);
  return describers[kind](value as never);
}

/** Returns the names of a number that is an enumeration. */
function enumOf(op: Op, name: string): Readonly<Record<string, number>> | undefined {
  if (op.call === 'prctl' && name === 'option') return PR;
  if (op.call === 'prlimit64' && name === 'resource') return RLIMIT;
  if (op.call === 'keyctl' && name === 'operation') return KEYCTL;
  if (op.call === 'keyctl_setperm' && name === 'key') return KEY_SPEC;
  if (name === 'request') return IOCTL;
  if (name === 'magic') return FS_MAGIC;
  return undefined;
}

const octal = (mode: number): string => (mode === 0 ? '0' : `0${mode.toString(8)}`);
const hex = (number: number | bigint): string => (number < 10n ? String(number) : `0x${number.toString(16)}`);
/** Bytes as hex, or only their length if there are more than 64. */
const hexBytes = (bytes: Buffer): string => (bytes.length > 64 ? `${bytes.length} bytes` : bytes.toString('hex'));

/** Returns `NOSUID|NODEV|0x4000`: the names of known bits, and the rest as hex. */
function flagNames(names: Readonly<Record<string, number>>, flags: number): string {
  let rest = BigInt(flags);
  const found = Object.entries(names).filter(([, bits]) => {
    const has = bits !== 0 && (rest & BigInt(bits)) === BigInt(bits);
    if (has) rest &= ~BigInt(bits);
    return has;
  });
  const words = found.map(([name]) => name);
  if (rest !== 0n) words.push(hex(rest));
  return words.length === 0 ? '0' : words.join('|');
}

const flagsOf = (names: Readonly<Record<string, number>>) => (flags: number) => flagNames(names, flags);

const describers: { readonly [K in ArgKind]: (value: ArgValues[K]) => string } = {
  fd: (name) => (name === 'cwd' ? name : `@${name}`),
  number: (value) => String(value),
  mode: octal,
  text: (text) => JSON.stringify(text),
  bytes: (bytes) => (/^[\x20-\x7e\n]*$/.test(bytes.toString('latin1')) && bytes.length <= 200 ? JSON.stringify(bytes.toString()) : hexBytes(bytes)),
  openHow: (how) => `${flagNames(O, how.flags)},${octal(how.mode ?? 0)},${flagNames(RESOLVE, how.resolve ?? 0)}`,
  mountAttr: (attr) =>
    `+${flagNames(MOUNT_ATTR, attr.set ?? 0)},-${flagNames(MOUNT_ATTR, attr.clear ?? 0)},${attr.propagation ? flagNames(MS, attr.propagation) : 'same'}`,
  ids: (ids) => ids.join(','),
  rlimit: (limit) => `${limit.soft}:${limit.hard}`,
  capabilities: (sets) => [sets.effective, sets.permitted, sets.inheritable].map(hex).join(','),
  struct: hexBytes,
  openFlags: flagsOf(O),
  atFlags: flagsOf(AT),
  mountFlags: flagsOf(MS),
  umountFlags: flagsOf(MNT),
  mountAttrFlags: flagsOf(MOUNT_ATTR),
  fsopenFlags: flagsOf(FSOPEN),
  openTreeFlags: flagsOf({ ...OPEN_TREE, EMPTY_PATH: AT.EMPTY_PATH, RECURSIVE: AT.RECURSIVE, SYMLINK_NOFOLLOW: AT.SYMLINK_NOFOLLOW }),
  moveMountFlags: flagsOf(MOVE_MOUNT),
  cloneFlags: flagsOf(CLONE),
  closeRangeFlags: flagsOf(CLOSE_RANGE),
  nodeMode: (mode) => `${Object.entries(S_IF).find(([, type]) => type === (mode & 0o170000))?.[0] ?? 'IFREG'}|${octal(mode & 0o7777)}`,
};
