import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runFilter } from '../../../test/support/bpf.ts';
import { actionByRules } from '../../../test/support/seccomp-rules.ts';
import { type ResolvedProfile, resolveProfile } from './seccomp.ts';
import type { SyscallNumber } from './seccomp-abi.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';
import { planProgram } from './seccomp-program.ts';

const [X86_64, X86, AARCH64, ARM] = [0xc000003e, 0x40000003, 0xc00000b7, 0x40000028];
const x32Bit = 0x40000000;
const [ALLOW, EPERM, ENOSYS, LOG, TRAP, KILL_THREAD, KILL_PROCESS] = [0x7fff0000, 0x50001, 0x50026, 0x7ffc0000, 0x30000, 0, 0x80000000];
/** The system calls of these tests that libseccomp 2.5.4 knows. */
const numbers: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  x86_64: { read: 0, write: 1, socket: 41, uname: 63, futex_waitv: 449 },
  x32: { read: x32Bit, write: x32Bit + 1, uname: x32Bit + 63, futex_waitv: x32Bit + 449, pwritev2: x32Bit + 547 },
  x86: { read: 3, write: 4, socketcall: 102, uname: 122, futex_waitv: 449 },
  aarch64: { read: 63, write: 64 },
  arm: { read: 3, write: 4, set_tls: 0xf0005 },
};
const libraryNumber: SyscallNumber = (name, architecture) => numbers[architecture]?.[name];

function resolved(syscalls: object[], more: object = {}, arch = 'x64'): ResolvedProfile {
  const document = { defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], syscalls, ...more };
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch, kernel: '6.18' });
}

const allow = (...names: string[]) => ({ names, action: 'SCMP_ACT_ALLOW' });
const arg = (index: number, op: string, value: number, valueTwo = 0) => ({ index, op: `SCMP_CMP_${op}`, value, valueTwo });
const write = (action: string, ...args: object[]) => ({ names: ['write'], action: `SCMP_ACT_${action}`, args });

function actionsFor(profile: ResolvedProfile, arch: number, ...numbers: number[]): number[] {
  const program = planProgram(profile, libraryNumber);
  return numbers.map((number) => runFilter(program, { arch, number }));
}

/** Returns the actions for write(2) with these arguments. */
function writesBy(profile: ResolvedProfile, ...calls: (readonly bigint[])[]): number[] {
  const program = planProgram(profile, libraryNumber);
  return calls.map((args) => runFilter(program, { arch: X86_64, number: 1, args }));
}

test('planProgram() allows calls by name on every architecture of the profile, also calls that the library does not know', () => {
  const profile = resolved([allow('read', 'futex_waitv', 'fchmodat2', 'mseal')]);
  assert.deepEqual(actionsFor(profile, X86_64, 0, 1, 449, 452, 453, 462), [ALLOW, EPERM, ALLOW, ALLOW, EPERM, ALLOW]);
  assert.deepEqual(actionsFor(profile, X86, 0, 3, 449, 452, 453, 462), [EPERM, ALLOW, ALLOW, ALLOW, EPERM, ALLOW]);
  assert.deepEqual(actionsFor(profile, X86_64, x32Bit, x32Bit + 1, x32Bit + 452, x32Bit + 453), [ALLOW, EPERM, ALLOW, EPERM]);
});

test('planProgram() allows calls that only 64-bit x86 has', () => {
  const profile = resolved([allow('uretprobe', 'mseal')]);
  assert.deepEqual(actionsFor(profile, X86_64, 334, 335, 336, x32Bit + 335), [EPERM, ALLOW, EPERM, ALLOW]);
  assert.deepEqual(actionsFor(profile, X86, 335), [EPERM]);
});

test('planProgram() returns ENOSYS above the newest call that the profile mentions, even in a rule that does not apply', () => {
  const profile = resolved([allow('read', 'fchmodat2'), { ...allow('mseal'), includes: { caps: ['CAP_SYS_ADMIN'] } }]);
  assert.deepEqual(actionsFor(profile, X86_64, 461, 462, 463, 511, x32Bit + 463), [EPERM, EPERM, ENOSYS, ENOSYS, ENOSYS]);
});

test('planProgram() returns ENOSYS above the newest number of each architecture, up to the largest number', () => {
  const profile = resolved([allow('read', 'uname')]);
  assert.deepEqual(actionsFor(profile, X86_64, 63, 64, 512, 547, 600, 0x3fffffff), [ALLOW, ENOSYS, ENOSYS, ENOSYS, ENOSYS, ENOSYS]);
  assert.deepEqual(actionsFor(profile, X86, 64, 122, 123, 600, -1), [EPERM, ALLOW, ENOSYS, ENOSYS, ENOSYS]);
});

test('planProgram() returns ENOSYS for newer calls also if other calls end the process, but not if the default action allows them', () => {
  assert.deepEqual(actionsFor(resolved([allow('write')], { defaultAction: 'SCMP_ACT_KILL_PROCESS' }), X86_64, 0, 1, 2), [
    KILL_PROCESS,
    ALLOW,
    ENOSYS,
  ]);
  const permissive = resolved([{ names: ['mseal'], action: 'SCMP_ACT_ERRNO' }], { defaultAction: 'SCMP_ACT_ALLOW' });
  assert.deepEqual(actionsFor(permissive, X86_64, 461, 462, 463), [ALLOW, EPERM, ALLOW]);
});

test('planProgram() gives the default action to numbers outside of the common sequence', () => {
  const x32 = resolved([allow('fchmodat2', 'pwritev2')]);
  assert.deepEqual(actionsFor(x32, X86_64, x32Bit + 511, x32Bit + 512, x32Bit + 547, x32Bit + 548), [ENOSYS, EPERM, ALLOW, ENOSYS]);
  const arm = resolved([allow('read', 'fchmodat2', 'set_tls')], { architectures: ['SCMP_ARCH_ARM'] }, 'arm64');
  assert.deepEqual(actionsFor(arm, ARM, 452, 453, 0xf0004, 0xf0005), [ALLOW, ENOSYS, EPERM, ALLOW]);
  assert.deepEqual(actionsFor(arm, AARCH64, 63, 452, 453, 0xf0005), [ALLOW, ALLOW, ENOSYS, ENOSYS]);
});

test('planProgram() kills the thread on a call of an architecture that the profile does not have, but not on -1, the mark of a tracer', () => {
  const profile = resolved([allow('read')], { architectures: [] });
  assert.deepEqual(actionsFor(profile, X86_64, 0, x32Bit, x32Bit + 600, -1), [ALLOW, KILL_THREAD, KILL_THREAD, EPERM]);
  for (const arch of [X86, AARCH64, ARM]) assert.deepEqual(actionsFor(profile, arch, 0, 3, 63), [KILL_THREAD, KILL_THREAD, KILL_THREAD]);
});

test('planProgram() finds calls of i386 that are also operations of socketcall(2) and ipc(2)', () => {
  const program = planProgram(resolved([allow('socket', 'semop', 'futex_waitv')]), libraryNumber);
  const of = (number: number, ...args: bigint[]) => runFilter(program, { arch: X86, number, args });
  assert.deepEqual([of(359), of(360), of(102, 1n), of(102, 2n), of(117, 1n), of(117, 2n)], [ALLOW, EPERM, ALLOW, EPERM, ALLOW, EPERM]);
  // A rule for the whole call has no condition.
  const whole = planProgram(resolved([allow('socketcall'), { names: ['socket'], action: 'SCMP_ACT_LOG' }]), libraryNumber);
  assert.equal(runFilter(whole, { arch: X86, number: 102, args: [1n] }), ALLOW);
});

test('planProgram() ignores names that no architecture has, also those of the members of objects', () => {
  assert.deepEqual(actionsFor(resolved([allow('nosuchcall', 'toString', 'constructor', '__proto__', 'read')]), X86_64, 0, 1), [ALLOW, ENOSYS]);
});

test('planProgram() compares 64 bits on 64-bit ABIs and 32 bits on others', () => {
  const profile = resolved([write('LOG', arg(0, 'EQ', 2 ** 32 + 7))]);
  assert.deepEqual(writesBy(profile, [7n], [0x100000007n], [0x200000007n]), [EPERM, LOG, EPERM]);
  assert.equal(runFilter(planProgram(profile, libraryNumber), { arch: X86, number: 4, args: [7n] }), LOG);
});

test('planProgram() prefers a rule without conditions, and the first of several', () => {
  const profile = resolved([write('ERRNO', arg(0, 'EQ', 1)), write('LOG'), write('ALLOW')], { defaultErrnoRet: 9 });
  assert.deepEqual(writesBy(profile, [0n], [1n]), [LOG, LOG]);
  // A condition that is always met is none.
  assert.deepEqual(writesBy(resolved([write('TRAP', arg(1, 'EQ', 0)), write('LOG', arg(0, 'MASKED_EQ', 0, 1))]), [0n]), [LOG]);
});

test('planProgram() takes the most restrictive action of several rules, in any order', () => {
  const rules = ['ALLOW', 'LOG', 'TRACE', 'TRAP', 'KILL_THREAD', 'KILL_PROCESS'].map((action, i) => write(action, arg(i, 'EQ', 1)));
  for (const syscalls of [rules, rules.toReversed()]) {
    const args = (count: number) => Array.from({ length: 6 }, (_, i) => (i < count ? 1n : 0n));
    const expected = [EPERM, ALLOW, LOG, 0x7ff00001, TRAP, KILL_THREAD, KILL_PROCESS];
    assert.deepEqual(writesBy(resolved(syscalls), ...expected.map((_, i) => args(i))), expected);
  }
});

test('planProgram() rejects different actions for the same conditions and names the call', () => {
  const contradiction = [write('LOG', arg(0, 'EQ', 1), arg(1, 'GT', 2)), write('ALLOW', arg(1, 'GT', 2), arg(0, 'EQ', 1))];
  assert.throws(() => planProgram(resolved(contradiction), libraryNumber), /rules for write have different actions for the same arguments/);
  assert.deepEqual(writesBy(resolved([...contradiction, write('ALLOW')]), [1n, 3n]), [ALLOW]);
});

/** Rules that a program with a shared path for several rules could confuse. */
const difficult: Readonly<Record<string, object[]>> = {
  'a condition in two rules': [write('ALLOW', arg(0, 'NE', 7), arg(1, 'EQ', 1)), write('ALLOW', arg(0, 'NE', 7), arg(2, 'EQ', 1))],
  'conditions on many arguments': [
    write('ERRNO', arg(1, 'NE', 2), arg(0, 'GE', 2 ** 32)),
    write('ALLOW', arg(0, 'GE', 2 ** 32), arg(2, 'GT', 0)),
    write('KILL', arg(1, 'LT', 1)),
    write('LOG', arg(5, 'GE', 4094), arg(4, 'MASKED_EQ', 2, 255)),
  ],
  'opposite comparisons': [write('ALLOW', arg(0, 'GT', 2)), write('ALLOW', arg(1, 'GT', 3), arg(0, 'LT', 2))],
  'opposite comparisons of the same argument first': [write('ALLOW', arg(0, 'LT', 1), arg(2, 'EQ', 1)), write('ALLOW', arg(0, 'GT', 2))],
  'every comparison': ['NE', 'LT', 'LE', 'EQ', 'GE', 'GT', 'MASKED_EQ'].map((op, i) =>
    write(['LOG', 'TRAP'][i % 2] ?? '', arg(i % 3, op, 2, 1), arg(3, op, 3, 3)),
  ),
};

for (const [name, syscalls] of Object.entries(difficult)) {
  test(`planProgram() follows the rules with ${name}`, () => {
    const profile = resolved(syscalls, { defaultErrnoRet: 9, architectures: [] });
    const values = [0n, 1n, 2n, 3n, 4n, 7n, 8n, 0xffffffffn, 0x100000000n, 0x100000002n, 0xffffffff00000003n];
    const calls = values.flatMap((a) => values.flatMap((b) => values.flatMap((c) => [0n, 2n, 3n].map((d) => [a, b, c, d, d, a << 8n]))));
    const program = planProgram(profile, libraryNumber);
    for (const args of calls) {
      assert.equal(runFilter(program, { arch: X86_64, number: 1, args }), actionByRules(profile, ['write'], args), args.join(', '));
    }
  });
}

test('planProgram() stops early if a profile needs more than the kernel accepts, and a rule without conditions makes the others free', () => {
  const many = Array.from({ length: 30 }, (_, i) => write('ALLOW', ...Array.from({ length: 64 }, (_, j) => arg(0, 'EQ', 64 * i + j))));
  assert.throws(() => planProgram(resolved(many), libraryNumber), /exceeds the kernel's limit of 4096 instructions/);
  assert.ok(planProgram(resolved([...many, write('ALLOW')]), libraryNumber).length < 8 * 60);
});

test('planProgram() jumps over any distance', () => {
  const syscalls = Array.from({ length: 600 }, (_, i) => write('ALLOW', arg(0, 'EQ', i), arg(1, 'EQ', i)));
  const profile = resolved([...syscalls, allow('read', 'uname')], { architectures: [] });
  assert.deepEqual(writesBy(profile, [0n, 0n], [599n, 599n], [599n, 598n]), [ALLOW, ALLOW, EPERM]);
  assert.deepEqual(actionsFor(profile, X86_64, 0, 62, 63, 64), [ALLOW, EPERM, ALLOW, ENOSYS]);
});
