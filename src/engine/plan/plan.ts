/**
 * Defines plans, the setup of a process as a list of system calls, and encodes them for the monitor.
 *
 * Pure. Knows nothing about containers: the plan-*.ts files do. Only src/monitor/decode.c reads the bytes.
 *
 * There is one rule of data flow. An operation that fails with an errno it tolerates leaves its `out` register absent. An operation that uses an
 * absent register is skipped, and its own `out` is then absent too. There are no other conditions, and no loops.
 */
import assert from 'node:assert/strict';
import { BerthError, invalidArgument } from '../../lib/errors.ts';
import { ERRNO, type ErrnoName } from './abi.ts';
import { type ArgKind, type ArgValues, type CallName, callNames, calls } from './calls.ts';

/** Name of a register: an fd that is inherited or is the `out` of an operation. Each name is defined once. `cwd` is AT_FDCWD. */
export type Reg = string;

type OpOf<C extends CallName> = {
  readonly call: C;
  /** The register for the result, an fd. */
  readonly out?: Reg;
  /** Errors that do not fail the plan. */
  readonly tolerate?: readonly ErrnoName[];
  /** What the operation does, as the beginning of an error message: `mount tmpfs on /dev/shm`. Not encoded. */
  readonly note: string;
} & {
  readonly [A in keyof (typeof calls)[C]['args']]: (typeof calls)[C]['args'][A] extends ArgKind ? ArgValues[(typeof calls)[C]['args'][A]] : never;
};

/** One system call: `{ call: 'mkdirat', dir: 'root', path: 'dev', mode: 0o755, note: 'create directory /dev' }`. Arguments: calls.ts. */
export type Op = { [C in CallName]: OpOf<C> }[CallName];

/** What the monitor does after the process has started. Registers here are inherited or the `out` of `parent` operations. */
export type Supervise =
  /** Reports `started` and exits. The process continues without it. */
  | { readonly mode: 'none' }
  /** Waits for the process, reports its exit status, and exits. */
  | { readonly mode: 'exec' }
  | {
      readonly mode: 'container';
      /** Read ends of the process's output pipes. */
      readonly stdout?: Reg;
      readonly stderr?: Reg;
      /** Write end of its input pipe, kept open. */
      readonly stdin?: Reg;
      /** Whether the child sends a terminal with `sendterminal`. */
      readonly hasTerminal: boolean;
      /** Undefined: output is read and discarded. `lineBytesMax`: longer lines are split; 1 to 65536. */
      readonly log?: { readonly dir: Reg; readonly name: string; readonly lineBytesMax: number };
      /** Directory for `exit.json`. */
      readonly exitDir: Reg;
      /** memory.events of its cgroup v2. The monitor reads it before and right after the exit, when the cgroup may be removed. */
      readonly memoryEvents?: Reg;
      /** Listening Unix stream socket. */
      readonly control?: Reg;
    };

/** A string of the process's arguments or environment, which need not be UTF-8. */
export type Bytes = string | Buffer;

export type Plan = {
  /** Names of the inherited fds, in the order in which startMonitor() receives them. */
  readonly fds: readonly Reg[];
  /** Run by the monitor before the clone. */
  readonly parent: readonly Op[];
  readonly clone: {
    /** `CLONE` flags: the new namespaces of the child. */
    readonly namespaces: number;
    /** Directory of the cgroup v2 that the child is cloned into. */
    readonly cgroup?: Reg;
  };
  /** Run by the child. The last one is `execve` or `reap`. Earlier `execve` operations with `tolerate` search a PATH. */
  readonly child: readonly Op[];
  /** Run by the monitor after the process has started, if it supervises it: what it gives up. */
  readonly confine?: readonly Op[];
  /** What `execve` starts. */
  readonly process: { readonly argv: readonly Bytes[]; readonly env: readonly Bytes[] };
  readonly supervise: Supervise;
};

/** `BRPL`, little-endian. This and the following constants are also in src/monitor/decode.c. */
const magic = 0x4c505242;
const version = 3;
const headerBytes = 96;
/** execve(2) accepts 2 MiB of arguments and environment with the usual stack limit. The rest of a plan is much smaller. */
export const planBytesMax = 4 * 1024 * 1024;
export const registersMax = 512;
const toleratedMax = 8;
const absent = -1;
const cwd = -100;
const superviseModes = ['none', 'exec', 'container'] as const;

/**
 * Encodes a plan for the monitor. All integers are little-endian. Every section begins at a multiple of 8.
 *
 *   header   magic, version, total bytes, inherited fds (u32 each); clone flags u64; clone cgroup reg i32; parent ops u32; child ops u32;
 *            supervise mode u32; stdout, stderr, stdin regs i32; has terminal u32; log dir, exit dir, control regs i32;
 *            line bytes max u32; bytes of log name, argv, env u32 each; memory events reg i32;
 *            ops of `confine` u32; 0 u32
 *   log name, argv, env   a NUL after each string
 *   op       its bytes u32, call u16, out reg i16, tolerated errnos u16, arguments u16, 0 u32; errnos u16 each, padded; arguments
 *   argument kind u32 (a letter of calls.ts), then F: reg i32; L: 8 and an u64; S, B: length u32 and the bytes, padded
 *
 * @throws {BerthError} INVALID_ARGUMENT for a NUL in a text, or a plan larger than `planBytesMax`; RESOURCE_EXHAUSTED for more than `registersMax`
 *   registers in use at once.
 */
export function encodePlan(plan: Plan): Buffer {
  checkLastOp(plan);
  const registers = new Map<Reg, number>();
  for (const name of plan.fds) define(registers, name);
  const parent = plan.parent.map((op) => encodeOp(registers, op));
  const header = encodeHeader(plan, registers);
  const child = plan.child.map((op) => encodeOp(registers, op));
  const confine = (plan.confine ?? []).map((op) => encodeOp(registers, op));
  const strings = plan.supervise.mode === 'container' && plan.supervise.log ? [encodeStrings([plan.supervise.log.name])] : [Buffer.alloc(0)];
  strings.push(encodeStrings(plan.process.argv), encodeStrings(plan.process.env));
  strings.forEach((section, i) => {
    header.writeUInt32LE(section.length, 72 + 4 * i);
  });
  const bytes = Buffer.concat([header, ...strings.map(padded), ...parent, ...child, ...confine]);
  if (bytes.length > planBytesMax) {
    throw invalidArgument(`encode plan: ${bytes.length} bytes of operations, arguments and environment exceed the limit of ${planBytesMax}`);
  }
  bytes.writeUInt32LE(bytes.length, 8);
  return bytes;
}

function checkLastOp(plan: Plan): void {
  const last = plan.child.at(-1);
  assert(last?.call === 'execve' || last?.call === 'reap', 'the last operation of a plan must be execve or reap');
  assert(last.tolerate === undefined, 'the last operation must not tolerate errors');
  for (const [i, op] of plan.child.entries()) assert(op.call !== 'reap' || i === plan.child.length - 1, 'reap must be the last operation');
  for (const op of [...plan.parent, ...(plan.confine ?? [])]) {
    assert(!['execve', 'reap', 'sendterminal', 'move', 'hold'].includes(op.call), `${op.call} is only for the child`);
  }
  for (const op of plan.child) assert(op.call !== 'execve' || plan.process.argv.length > 0, 'argv must not be empty');
}

function encodeHeader(plan: Plan, registers: Map<Reg, number>): Buffer {
  const header = Buffer.alloc(headerBytes);
  const container = plan.supervise.mode === 'container' ? plan.supervise : undefined;
  const reg = (name: Reg | undefined): number => (name === undefined ? absent : resolve(registers, name));
  const words = [
    ...[plan.parent.length, plan.child.length, superviseModes.indexOf(plan.supervise.mode)],
    ...[reg(container?.stdout), reg(container?.stderr), reg(container?.stdin), container?.hasTerminal ? 1 : 0],
    ...[reg(container?.log?.dir), reg(container?.exitDir), reg(container?.control), container?.log?.lineBytesMax ?? 0],
  ];
  header.writeUInt32LE(magic, 0);
  header.writeUInt32LE(version, 4);
  header.writeUInt32LE(plan.fds.length, 12);
  header.writeBigUInt64LE(BigInt(plan.clone.namespaces), 16);
  header.writeInt32LE(reg(plan.clone.cgroup), 24);
  words.forEach((word, i) => {
    header.writeInt32LE(word, 28 + 4 * i);
  });
  header.writeInt32LE(reg(container?.memoryEvents), 84);
  header.writeUInt32LE(plan.confine?.length ?? 0, 88);
  return header;
}

/** Assigns the lowest free number to a name. Numbers of closed registers are reused, so that long plans fit. */
function define(registers: Map<Reg, number>, name: Reg): number {
  assert(name !== 'cwd' && !registers.has(name), `register ${name} is defined twice`);
  const taken = new Set(registers.values());
  let number = 0;
  while (taken.has(number)) number++;
  if (number >= registersMax) throw new BerthError('RESOURCE_EXHAUSTED', `encode plan: more than ${registersMax} registers in use at once`);
  registers.set(name, number);
  return number;
}

function resolve(registers: ReadonlyMap<Reg, number>, name: Reg): number {
  const number = registers.get(name);
  assert(number !== undefined, `register ${name} is used but not defined`);
  return number;
}

function encodeOp(registers: Map<Reg, number>, op: Op): Buffer {
  const args = wireArgs(op).map((arg) => encodeArg(registers, arg));
  if (op.call === 'close') registers.delete(op.fd);
  const tolerated = op.tolerate ?? [];
  assert(tolerated.length <= toleratedMax);
  const head = Buffer.alloc(16);
  head.writeUInt16LE(callNames.indexOf(op.call), 4);
  head.writeInt16LE(op.out === undefined ? absent : define(registers, op.out), 6);
  head.writeUInt16LE(tolerated.length, 8);
  head.writeUInt16LE(args.length, 10);
  const errnos = Buffer.alloc(2 * tolerated.length);
  tolerated.forEach((name, i) => {
    errnos.writeUInt16LE(ERRNO[name], 2 * i);
  });
  const bytes = Buffer.concat([head, padded(errnos), ...args]);
  bytes.writeUInt32LE(bytes.length, 0);
  return bytes;
}

/** An encoded argument: a register, a number, a text, or bytes. */
type WireArg = { readonly F: Reg } | { readonly L: number | bigint } | { readonly S: string } | { readonly B: Buffer };

function wireArgs(op: Op): WireArg[] {
  return argsOf(op).flatMap(({ name, kind, value }) => {
    assert(value !== undefined, `${op.call} requires ${name}`);
    return encoders[kind](value as never);
  });
}

/** Returns the arguments of an operation in the order of the system call. */
export function argsOf(op: Op): { name: string; kind: ArgKind; value: unknown }[] {
  const values = op as unknown as Readonly<Record<string, unknown>>;
  return Object.entries(calls[op.call].args as Readonly<Record<string, ArgKind>>).map(([name, kind]) => ({ name, kind, value: values[name] }));
}

const number = (value: number | bigint): WireArg[] => [{ L: value }];
const bytes = (value: Buffer): WireArg[] => [{ B: value }];

const encoders: { readonly [K in ArgKind]: (value: ArgValues[K]) => WireArg[] } = {
  fd: (value) => [{ F: value }],
  number,
  mode: number,
  text: (value) => [{ S: value }],
  bytes,
  openHow: (how) => bytes(words64(how.flags, how.mode ?? 0, how.resolve ?? 0)),
  mountAttr: (attr) => bytes(words64(attr.set ?? 0, attr.clear ?? 0, attr.propagation ?? 0, 0)),
  ids: (ids) => bytes(words32(...ids)),
  rlimit: (limit) => bytes(words64(limit.soft, limit.hard)),
  capabilities: encodeCapabilities,
  struct: (value) => {
    assert(value.length <= 64);
    return bytes(Buffer.concat([value, Buffer.alloc(64 - value.length)]));
  },
  openFlags: number,
  atFlags: number,
  mountFlags: number,
  umountFlags: number,
  mountAttrFlags: number,
  fsopenFlags: number,
  openTreeFlags: number,
  moveMountFlags: number,
  cloneFlags: number,
  closeRangeFlags: number,
  nodeMode: number,
};

/** Encodes capset(2) with _LINUX_CAPABILITY_VERSION_3: effective, permitted, inheritable; first the low words, then the high words. */
function encodeCapabilities(sets: ArgValues['capabilities']): WireArg[] {
  const three = [sets.effective, sets.permitted, sets.inheritable];
  const words = [...three.map((set) => Number(set & 0xffffffffn)), ...three.map((set) => Number(set >> 32n))];
  return [{ B: words32(0x20080522, 0) }, { B: words32(...words) }];
}

function words64(...values: readonly (number | bigint)[]): Buffer {
  const words = Buffer.alloc(8 * values.length);
  values.forEach((value, i) => {
    words.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i);
  });
  return words;
}

function words32(...values: readonly number[]): Buffer {
  const words = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => {
    words.writeUInt32LE(value, 4 * i);
  });
  return words;
}

function encodeArg(registers: ReadonlyMap<Reg, number>, arg: WireArg): Buffer {
  if ('F' in arg) return argBytes('F', arg.F === 'cwd' ? cwd : resolve(registers, arg.F), Buffer.alloc(0));
  if ('L' in arg) return argBytes('L', 8, words64(arg.L));
  const payload = 'S' in arg ? encodeStrings([arg.S]) : arg.B;
  return argBytes('S' in arg ? 'S' : 'B', payload.length, payload);
}

function argBytes(kind: string, length: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32LE(kind.charCodeAt(0), 0);
  head.writeInt32LE(length, 4);
  return Buffer.concat([head, padded(payload)]);
}

function encodeStrings(strings: readonly Bytes[]): Buffer {
  const parts = strings.map((text) => (typeof text === 'string' ? Buffer.from(text) : text));
  for (const part of parts) {
    if (part.includes(0)) throw invalidArgument(`encode plan: NUL in ${JSON.stringify(part.toString('utf8').slice(0, 80))}`);
  }
  return Buffer.concat(parts.flatMap((part) => [part, Buffer.alloc(1)]));
}

const padded = (part: Buffer): Buffer => (part.length % 8 === 0 ? part : Buffer.concat([part, Buffer.alloc(8 - (part.length % 8))]));
