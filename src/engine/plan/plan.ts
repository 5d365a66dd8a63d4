/**
 * Plans: a process set-up as data. A list of system calls, their text for people, and their bytes for the monitor.
 *
 * Pure. Decides nothing about containers: the plan-*.ts files do. src/monitor/decode.c reads the bytes, and nothing else does.
 *
 * The one rule of data flow: an operation that fails with an errno it tolerates leaves its `out` register absent,
 * and an operation that uses an absent register is skipped (its own `out` is then absent too). There are no other conditions, and no loops.
 */
import assert from 'node:assert/strict';
import { BerthError, invalidArgument } from '../../lib/errors.ts';
import { ERRNO, type ErrnoName } from './abi.ts';
import { type ArgKind, type ArgValues, type CallName, callNames, calls } from './calls.ts';

/** Name of a register: an fd that is inherited, or that an operation puts `out`. Each name is given once; `cwd` is AT_FDCWD. */
export type Reg = string;

type OpOf<C extends CallName> = {
  readonly call: C;
  /** Where the result (an fd) goes. */
  readonly out?: Reg;
  /** Errors that are no failure of the plan. */
  readonly tolerate?: readonly ErrnoName[];
  /** What it achieves, as the beginning of an error message: `mounting tmpfs on /dev/shm`. Not encoded. */
  readonly note: string;
} & {
  readonly [A in keyof (typeof calls)[C]['args']]: (typeof calls)[C]['args'][A] extends ArgKind ? ArgValues[(typeof calls)[C]['args'][A]] : never;
};

/** One system call: `{ call: 'mkdirat', dir: 'root', path: 'dev', mode: 0o755, note: 'making /dev' }`. Arguments as in calls.ts. */
export type Op = { [C in CallName]: OpOf<C> }[CallName];

/** What the monitor does once the process runs. Registers here are inherited, or made by `parent` operations. */
export type Supervise =
  /** Reports `started` and exits; the process goes on alone. */
  | { readonly mode: 'none' }
  /** Waits, reports the exit status, exits. */
  | { readonly mode: 'exec' }
  | {
      readonly mode: 'container';
      /** Read ends of the process's output. */
      readonly stdout?: Reg;
      readonly stderr?: Reg;
      /** Write end of its input, held open. */
      readonly stdin?: Reg;
      /** The child sends its terminal with `sendterminal`. */
      readonly hasTerminal: boolean;
      /** Absent: output is read and thrown away. `lineBytesMax`: longer lines are split; 1 to 65536. */
      readonly log?: { readonly dir: Reg; readonly name: string; readonly lineBytesMax: number };
      /** Directory that gets `exit.json`. */
      readonly exitDir: Reg;
      /** memory.events of its cgroup v2: read when the process has ended, for the cgroup may go with it. */
      readonly memoryEvents?: Reg;
      /** Listening unix stream socket. */
      readonly control?: Reg;
    };

/** A string of the process's arguments or environment: bytes need not be UTF-8. */
export type Bytes = string | Buffer;

export type Plan = {
  /** Names of the inherited fds, in the order in which startMonitor() gets them. */
  readonly fds: readonly Reg[];
  /** Run by the monitor before it clones. */
  readonly parent: readonly Op[];
  readonly clone: {
    /** `CLONE` flags: what the child gets anew. */
    readonly namespaces: number;
    /** Directory of a cgroup v2 in which the child begins. */
    readonly cgroup?: Reg;
  };
  /** Run by the child; the last one is `execve` or `reap`. Before it, `execve` with `tolerate` searches a PATH. */
  readonly child: readonly Op[];
  /** What `execve` starts. */
  readonly process: { readonly argv: readonly Bytes[]; readonly env: readonly Bytes[] };
  readonly supervise: Supervise;
};

/** `BRPL`, little-endian. This and all below: src/monitor/decode.c. */
const magic = 0x4c505242;
const version = 2;
const headerBytes = 88;
/** execve(2) takes 2 MiB of arguments and environment with the usual stack limit; the rest of a plan is small beside that. */
export const planBytesMax = 4 * 1024 * 1024;
export const registersMax = 512;
const toleratedMax = 8;
const absent = -1;
const cwd = -100;
const superviseModes = ['none', 'exec', 'container'] as const;

/**
 * A plan as the monitor reads it. All integers are little-endian; every section begins at a multiple of 8.
 *
 *   header   magic, version, total bytes, inherited fds (u32 each); clone flags u64; clone cgroup reg i32; parent ops u32; child ops u32;
 *            supervise mode u32; stdout, stderr, stdin regs i32; has terminal u32; log dir, exit dir, control regs i32;
 *            line bytes max u32; bytes of log name, argv, env u32 each; memory events reg i32
 *   log name, argv, env   NUL after each string
 *   op       its bytes u32, call u16, out reg i16, tolerated errnos u16, arguments u16, 0 u32; errnos u16 each, padded; arguments
 *   argument kind u32 (a letter of calls.ts), then F: reg i32; L: 8 and an u64; S, B: length u32 and the bytes, padded
 *
 * @throws {BerthError} INVALID_ARGUMENT for a NUL in a text, or a plan larger than `planBytesMax`.
 */
export function encodePlan(plan: Plan): Buffer {
  checkLastOp(plan);
  const registers = new Map<Reg, number>();
  for (const name of plan.fds) define(registers, name);
  const parent = plan.parent.map((op) => encodeOp(registers, op));
  const header = encodeHeader(plan, registers);
  const child = plan.child.map((op) => encodeOp(registers, op));
  const strings = plan.supervise.mode === 'container' && plan.supervise.log ? [encodeStrings([plan.supervise.log.name])] : [Buffer.alloc(0)];
  strings.push(encodeStrings(plan.process.argv), encodeStrings(plan.process.env));
  strings.forEach((section, i) => {
    header.writeUInt32LE(section.length, 72 + 4 * i);
  });
  const bytes = Buffer.concat([header, ...strings.map(padded), ...parent, ...child]);
  if (bytes.length > planBytesMax) {
    throw invalidArgument(`encoding the plan: ${bytes.length} bytes of set-up, arguments and environment are more than ${planBytesMax}`);
  }
  bytes.writeUInt32LE(bytes.length, 8);
  return bytes;
}

function checkLastOp(plan: Plan): void {
  const last = plan.child.at(-1);
  assert(last?.call === 'execve' || last?.call === 'reap', 'a plan ends with execve or reap');
  assert(last.tolerate === undefined, 'nothing comes after the last operation');
  for (const [i, op] of plan.child.entries()) assert(op.call !== 'reap' || i === plan.child.length - 1, 'reap is last');
  for (const op of plan.parent) assert(!['execve', 'reap', 'sendterminal', 'move', 'hold'].includes(op.call), `${op.call} is the child's`);
  for (const op of plan.child) assert(op.call !== 'execve' || plan.process.argv.length > 0, 'a process has a name');
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
  return header;
}

/** Gives a name the lowest free number: numbers of closed registers are used again, so that long plans fit. */
function define(registers: Map<Reg, number>, name: Reg): number {
  assert(name !== 'cwd' && !registers.has(name), `register ${name} is given twice`);
  const taken = new Set(registers.values());
  let number = 0;
  while (taken.has(number)) number++;
  if (number >= registersMax) throw new BerthError('RESOURCE_EXHAUSTED', `encoding the plan: more than ${registersMax} files open at once`);
  registers.set(name, number);
  return number;
}

function resolve(registers: ReadonlyMap<Reg, number>, name: Reg): number {
  const number = registers.get(name);
  assert(number !== undefined, `register ${name} is not given before it is used`);
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

/** An argument as the monitor knows it: a register, a number, a text, bytes. */
type WireArg = { readonly F: Reg } | { readonly L: number | bigint } | { readonly S: string } | { readonly B: Buffer };

function wireArgs(op: Op): WireArg[] {
  return argsOf(op).flatMap(({ name, kind, value }) => {
    assert(value !== undefined, `${op.call} needs ${name}`);
    return encoders[kind](value as never);
  });
}

/** The arguments of an operation in the order of the system call. */
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

/** capset(2), _LINUX_CAPABILITY_VERSION_3: effective, permitted, inheritable, first the low words, then the high ones. */
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
    if (part.includes(0)) throw invalidArgument(`encoding the plan: a NUL in ${JSON.stringify(part.toString('utf8').slice(0, 80))}`);
  }
  return Buffer.concat(parts.flatMap((part) => [part, Buffer.alloc(1)]));
}

const padded = (part: Buffer): Buffer => (part.length % 8 === 0 ? part : Buffer.concat([part, Buffer.alloc(8 - (part.length % 8))]));
