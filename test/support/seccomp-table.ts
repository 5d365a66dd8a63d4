/**
 * What a seccomp program answers to every system call, as data: compares the filters of two runtimes.
 */
import { runFilter } from './bpf.ts';

/** Answer (`allow`, `EPERM`, `ENOSYS` or a number in hex) to the numbers that get it, as ranges: `0-12,14`. */
export type Answers = Readonly<Record<string, string>>;

export type Table = {
  /** System calls 0 to 600 with all arguments 0, by ABI. */
  readonly numbers: Readonly<Record<AbiName, Answers>>;
  /** Calls of which the filter checks an argument, by their first argument. */
  readonly firstArgument: Readonly<Record<string, Answers>>;
};

export type AbiName = keyof typeof abis;

/** AUDIT_ARCH values of include/uapi/linux/audit.h, and the bit that x32 sets in the number. */
const abis = {
  x86_64: { arch: 0xc000003e, bit: 0 },
  i386: { arch: 0x40000003, bit: 0 },
  x32: { arch: 0xc000003e, bit: 0x40000000 },
} as const;

export const numberMax = 600;

/** Numbers on x86-64 and the values of their first argument that matter: socket families, PER_ values, CLONE_NEW flags, each also with a high bit set. */
const firstArguments: Readonly<Record<string, { readonly number: number; readonly values: readonly bigint[] }>> = {
  socket: { number: 41, values: withHighBit(range(0, 64)) },
  socketpair: { number: 53, values: withHighBit(range(0, 64)) },
  personality: { number: 135, values: withHighBit([0n, 1n, 8n, 9n, 0x20000n, 0x20008n, 0x40000n, 0xffffffffn]) },
  clone: { number: 56, values: withHighBit([0n, 0x11n, ...range(7, 31).map((bit) => 1n << bit)]) },
};

/** Returns the answers of a program. */
export function tabulate(program: Buffer): Table {
  const answersOf = (abi: AbiName) => {
    const { arch, bit } = abis[abi];
    return group(range(0, numberMax).map((number) => [number, answer(runFilter(program, { arch, number: Number(number) + bit }))]));
  };
  const byArgument = Object.entries(firstArguments).map(([name, { number, values }]) => {
    const answers = values.map((value) => [value, answer(runFilter(program, { arch: abis.x86_64.arch, number, args: [value] }))] as const);
    return [name, group(answers)] as const;
  });
  return {
    numbers: { x86_64: answersOf('x86_64'), i386: answersOf('i386'), x32: answersOf('x32') },
    firstArgument: Object.fromEntries(byArgument),
  };
}

/** Returns value to answer. */
export function expand(answers: Answers): Map<bigint, string> {
  const pairs = Object.entries(answers).flatMap(([name, ranges]) =>
    ranges.split(',').flatMap((text) => {
      const [first = 0n, last = first] = text.split('-').map(BigInt);
      return range(first, last).map((value) => [value, name] as const);
    }),
  );
  return new Map(pairs.sort(([a], [b]) => (a < b ? -1 : 1)));
}

function answer(result: number): string {
  const known: Readonly<Record<number, string>> = { 2147418112: 'allow', 327681: 'EPERM', 327718: 'ENOSYS' };
  return known[result] ?? `0x${result.toString(16)}`;
}

function group(answers: readonly (readonly [bigint, string])[]): Answers {
  const ranges: Record<string, [bigint, bigint][]> = {};
  for (const [value, name] of answers) {
    ranges[name] ??= [];
    const last = ranges[name].at(-1);
    if (last !== undefined && last[1] + 1n === value) last[1] = value;
    else ranges[name].push([value, value]);
  }
  const text = ([first, last]: [bigint, bigint]) => (first === last ? String(first) : `${first}-${last}`);
  return Object.fromEntries(Object.entries(ranges).map(([name, list]) => [name, list.map(text).join(',')]));
}

function range(first: number | bigint, last: number | bigint): bigint[] {
  return Array.from({ length: Number(BigInt(last) - BigInt(first)) + 1 }, (_, i) => BigInt(first) + BigInt(i));
}

/** The kernel takes these arguments as 32-bit integers, and a filter sees 64 bits. */
function withHighBit(values: readonly bigint[]): bigint[] {
  return [...values, ...values.map((value) => value + (1n << 32n))];
}
