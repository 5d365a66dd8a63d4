/**
 * Fuzzes seccomp profiles: a profile with an unusual value in any place is accepted, or rejected with a BerthError that names the field. Random profiles
 * are compiled with the numbers of the real libseccomp and compared with their rules, and random changes are made to their text.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ResolvedProfile, resolveProfile } from '../../src/engine/seccomp/seccomp.ts';
import { createSeccompCompiler } from '../../src/engine/seccomp/seccomp-compiler.ts';
import { actions, compares, parseSeccompProfile } from '../../src/engine/seccomp/seccomp-profile.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { createLibseccomp } from '../../src/sys/library/libseccomp.ts';
import { runFilter } from '../support/bpf.ts';
import { mutated, pick } from '../support/mutate.ts';
import { actionByRules } from '../support/seccomp-rules.ts';
import { rounds } from './support/rounds.ts';

const arg = { index: 0, op: 'SCMP_CMP_MASKED_EQ', value: 1, valueTwo: 2 };
const condition = { caps: ['CAP_SYS_ADMIN'], arches: ['amd64'], minKernel: '4.8' };
const validProfile = {
  defaultAction: 'SCMP_ACT_ERRNO',
  defaultErrnoRet: 1,
  archMap: [{ architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86'] }],
  architectures: [],
  flags: ['SECCOMP_FILTER_FLAG_LOG'],
  listenerPath: '',
  syscalls: [
    { names: ['read'], action: 'SCMP_ACT_ALLOW', errnoRet: 2, args: [arg], includes: condition, excludes: { ...condition, arches: ['arm'] } },
  ],
};
/** JSON texts instead of values, because JavaScript would round some of the numbers. */
const oddValues = [
  'null',
  'true',
  '-1',
  '1.5',
  '1e999',
  '18446744073709551616',
  '9007199254740993',
  '""',
  '"\\u0000"',
  '"toString"',
  '[]',
  '[[]]',
  '{}',
  '[null]',
];

/** Returns copies of the document, each with another value replaced by the mark `@`. */
function documentsWithMark(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return ['@'];
  const parts = Object.entries(value).flatMap(([name, inner]) =>
    documentsWithMark(inner).map((marked) => {
      const others = Object.entries(value).map(([other, same]) => (other === name ? marked : JSON.stringify(same)));
      return Array.isArray(value)
        ? `[${others.join(',')}]`
        : `{${Object.keys(value)
            .map((key, i) => `${JSON.stringify(key)}:${others[i]}`)
            .join(',')}}`;
    }),
  );
  return ['@', ...parts];
}

test('parseSeccompProfile() accepts or rejects any value in any place, and accepted profiles can be resolved', () => {
  const documents = documentsWithMark(validProfile);
  assert.ok(documents.length > 30);
  for (const json of documents.flatMap((marked) => oddValues.map((odd) => marked.replace('@', odd)))) {
    try {
      resolveProfile(parseSeccompProfile(json, 'p.json'), { capabilities: 0n, arch: 'x64', kernel: '6.18' });
    } catch (error) {
      assert.ok(error instanceof BerthError && /^seccomp profile p\.json: \S/.test(error.message), `${json}: ${String(error)}`);
    }
  }
});

const context = { capabilities: 1n << 21n, arch: process.arch, kernel: '6.18' };
const names = ['read', 'socket', 'clone', 'clone3', 'ioctl', 'socketcall', 'ipc', 'mmap2', 'arm_fadvise64_64', 'nosuchcall'];
const conditions = [{}, {}, { caps: ['CAP_SYS_ADMIN'] }, { caps: ['CAP_NET_RAW'] }, { arches: ['amd64', 'arm64'] }, { minKernel: '4.8' }];
const numbers = [0, 1, 2, 38, 255, 4094, 2 ** 31, 2 ** 32, 2 ** 53];
const architectures = ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32', 'SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM', 'SCMP_ARCH_S390'];

/** Mostly valid, so that most profiles reach the compiler. */
function randomProfile(random: () => number): object {
  const several = <T>(max: number, each: () => T): T[] => Array.from({ length: Math.floor(random() * (max + 1)) }, each);
  const usually = <T>(values: readonly T[], other: T): T => (random() < 0.005 ? other : pick(random, values));
  const action = () => pick(random, Object.keys(actions));
  const arg = () => ({
    index: usually([0, 1, 2, 3, 4, 5], 6),
    op: pick(random, Object.keys(compares)),
    value: pick(random, numbers),
    valueTwo: pick(random, numbers),
  });
  const rule = () => ({
    names: several(3, () => usually(names, '')).concat('write'),
    action: action(),
    ...(random() < 0.3 ? { errnoRet: usually([0, 1, 38, 4094], 4095) } : {}),
    // A rule without conditions takes precedence over the others of its calls.
    args: random() < 0.05 ? [] : [arg(), ...several(2, arg)],
    includes: usually(conditions, { minKernel: 'x' } as object),
    excludes: usually(conditions, { caps: ['CAP_NOSUCH'] } as object),
  });
  return { defaultAction: action(), architectures: several(4, () => pick(random, architectures)), syscalls: several(random() < 0.1 ? 300 : 6, rule) };
}

/** By libseccomp's name: the AUDIT_ARCH value, the size of an argument, and numbers of calls. */
const abis = {
  x86_64: { arch: 0xc000003e, bits: 64, calls: { read: 0, write: 1, ioctl: 16, socket: 41, clone: 56 } },
  x86: { arch: 0x40000003, bits: 32, calls: { read: 3, write: 4, ioctl: 54, socket: 359, clone: 120 } },
  x32: { arch: 0xc000003e, bits: 32, calls: { read: 0x40000000, write: 0x40000001, ioctl: 0x40000202, socket: 0x40000029, clone: 0x40000038 } },
} as const;

/** Compares the program with the rules, for calls whose arguments are close to the numbers of the profile. */
function assertFollowsRules(random: () => number, profile: ResolvedProfile, program: Buffer): void {
  for (let i = 0; i < 60; i++) {
    const [abi, { arch, bits, calls }] = pick(random, Object.entries(abis));
    const [name, number] = pick(random, Object.entries(calls));
    if (!profile.mentioned.has(name)) continue;
    const args = Array.from({ length: 6 }, () => BigInt.asUintN(64, BigInt(pick(random, numbers)) + BigInt(pick(random, [-1, 0, 0, 1]))));
    const expected = profile.architectures.includes(abi) ? actionByRules(profile, [name], args, bits) : 0;
    assert.equal(runFilter(program, { arch, number, args }), expected, `${abi}: ${name}(${args.join(', ')})`);
  }
}

/** A 1 MiB profile takes less than a second on an idle machine. */
const compileMsMax = 20_000;

test('random profiles are compiled in bounded time to a program that follows their rules, or rejected with a BerthError', async (t) => {
  const { compile } = createSeccompCompiler({ libseccomp: createLibseccomp(), programsMax: 8 });
  const outcomes = { compiled: 0, rejected: 0 };
  await rounds(t, (random) => {
    const json = JSON.stringify(randomProfile(random));
    const text = random() < 0.7 ? json : mutated(random, json, oddValues);
    const startMs = performance.now();
    try {
      const profile = resolveProfile(parseSeccompProfile(text, 'p.json'), context);
      const { program } = compile(profile);
      assert.ok(program.length > 0 && program.length % 8 === 0 && program.length <= 8 * 4096, `${program.length} bytes`);
      if (process.arch === 'x64') assertFollowsRules(random, profile, program);
      outcomes.compiled += 1;
    } catch (error) {
      assert.ok(error instanceof BerthError && error.code !== 'INTERNAL' && !error.message.includes('\n'), `${text}: ${String(error)}`);
      outcomes.rejected += 1;
    }
    assert.ok(performance.now() - startMs < compileMsMax, text);
  });
  t.diagnostic(JSON.stringify(outcomes));
  assert.ok(outcomes.compiled > 10 && outcomes.rejected > 10);
});
