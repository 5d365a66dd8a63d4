import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runFilter } from '../../../test/support/bpf.ts';
import { type ResolvedProfile, resolveProfile } from './seccomp.ts';
import { planNewSyscalls } from './seccomp-extension.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

const X86_64 = 0xc000003e;
const X86 = 0x40000003;
const x32Bit = 0x40000000;
const [ALLOW, EPERM, ENOSYS, MAIN] = [0x7fff0000, 0x50001, 0x50026, 0x12345678];
/** What libseccomp 2.5.4 knows of the calls in these tests. */
const libraryNumber = (name: string): number | undefined => ({ read: 0, futex_waitv: 449, rt_sigaction: 13 })[name];
/** Stands for libseccomp's program. */
const mainProgram = Buffer.from('0600000078563412', 'hex');

function resolved(syscalls: object[], more: object = {}): ResolvedProfile {
  const document = { defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], syscalls, ...more };
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch: 'x64', kernel: '6.18' });
}

const allow = (...names: string[]) => ({ names, action: 'SCMP_ACT_ALLOW' });

function answers(profile: ResolvedProfile, arch: number, ...numbers: number[]): number[] {
  const program = Buffer.concat([planNewSyscalls(profile, libraryNumber), mainProgram]);
  return numbers.map((number) => runFilter(program, { arch, number }));
}

test('planNewSyscalls() answers for calls that the library does not know, on every architecture of the profile', () => {
  const profile = resolved([allow('read', 'futex_waitv', 'fchmodat2', 'mseal')]);
  for (const arch of [X86_64, X86]) assert.deepEqual(answers(profile, arch, 0, 449, 452, 453, 462), [MAIN, MAIN, ALLOW, MAIN, ALLOW]);
  assert.deepEqual(answers(profile, X86_64, x32Bit + 452, x32Bit + 453, x32Bit), [ALLOW, MAIN, MAIN]);
});

test('planNewSyscalls() gives ENOSYS above the newest call that the profile mentions, also in a rule that does not count', () => {
  const profile = resolved([allow('read', 'fchmodat2'), { ...allow('mseal'), includes: { caps: ['CAP_SYS_ADMIN'] } }]);
  assert.deepEqual(answers(profile, X86_64, 461, 462, 463, 511, x32Bit + 463), [MAIN, MAIN, ENOSYS, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() leaves calls of before the common numbers to the rules, however old the profile', () => {
  assert.deepEqual(answers(resolved([allow('read')]), X86_64, 1, 423, 424, 450), [MAIN, MAIN, ENOSYS, ENOSYS]);
});

test("planNewSyscalls() leaves x32's own numbers, absurd numbers and other architectures to the library", () => {
  const profile = resolved([allow('fchmodat2')]);
  assert.deepEqual(answers(profile, X86_64, 512, 547, x32Bit + 512, -1, 0x7fffffff), [MAIN, MAIN, MAIN, MAIN, MAIN]);
  assert.deepEqual(answers(profile, 0xc00000b7, 452, 470), [MAIN, MAIN]);
});

test('planNewSyscalls() without x32 in the profile leaves all x32 calls to the library, which ends them', () => {
  const profile = resolved([allow('fchmodat2')], { architectures: [] });
  assert.deepEqual(answers(profile, X86_64, 452, x32Bit + 452, x32Bit + 470), [ALLOW, MAIN, MAIN]);
  assert.deepEqual(answers(profile, X86, 452), [MAIN]);
});

test('planNewSyscalls() refuses new calls that a permissive profile refuses, with any arguments', () => {
  const args = [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }];
  const refuse = (name: string, more: object = {}) => ({ names: [name], action: 'SCMP_ACT_ERRNO', ...more });
  const profile = resolved([refuse('mseal'), refuse('listns', { args, errnoRet: 38 })], { defaultAction: 'SCMP_ACT_ALLOW' });
  assert.deepEqual(answers(profile, X86_64, 462, 470, 471, 500), [EPERM, ENOSYS, MAIN, MAIN]);
});

test('planNewSyscalls() does not allow a new call that is allowed for some arguments only', () => {
  const profile = resolved([{ ...allow('mseal'), args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }] }]);
  assert.deepEqual(answers(profile, X86_64, 462), [MAIN]);
});

test('planNewSyscalls() takes the first rule of a call', () => {
  const profile = resolved([allow('mseal'), { names: ['mseal'], action: 'SCMP_ACT_LOG' }]);
  assert.deepEqual(answers(profile, X86_64, 462), [ALLOW]);
});

test('planNewSyscalls() adds nothing where there is nothing to add', () => {
  assert.equal(planNewSyscalls(resolved([allow('read')], { defaultErrnoRet: 38 }), libraryNumber).length, 0);
  assert.equal(planNewSyscalls(resolved([], { defaultAction: 'SCMP_ACT_ALLOW' }), libraryNumber).length, 0);
  assert.equal(planNewSyscalls(resolved([allow('mseal')], { defaultErrnoRet: 38 }), () => 462).length, 0);
});
