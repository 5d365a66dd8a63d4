import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runFilter } from '../../../test/support/bpf.ts';
import { type ResolvedProfile, resolveProfile } from './seccomp.ts';
import { planNewSyscalls, type SyscallNumber } from './seccomp-extension.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

const X86_64 = 0xc000003e;
const X86 = 0x40000003;
const [AARCH64, ARM] = [0xc00000b7, 0x40000028];
const x32Bit = 0x40000000;
const [ALLOW, EPERM, ENOSYS, MAIN] = [0x7fff0000, 0x50001, 0x50026, 0x12345678];
/** The system calls of these tests that libseccomp 2.5.4 knows. */
const numbers: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  x86_64: { read: 0, uname: 63, futex_waitv: 449 },
  x32: { read: x32Bit, uname: x32Bit + 63, futex_waitv: x32Bit + 449, pwritev2: x32Bit + 547 },
  x86: { read: 3, uname: 122, futex_waitv: 449 },
  arm: { read: 3, set_tls: 0xf0005 },
};
const libraryNumber: SyscallNumber = (name, architecture) => numbers[architecture]?.[name];
/** Placeholder for libseccomp's program. */
const mainProgram = Buffer.from('0600000078563412', 'hex');

function resolved(syscalls: object[], more: object = {}): ResolvedProfile {
  const document = { defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'], syscalls, ...more };
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch: 'x64', kernel: '6.18' });
}

const allow = (...names: string[]) => ({ names, action: 'SCMP_ACT_ALLOW' });

function actionsFor(profile: ResolvedProfile, arch: number, ...numbers: number[]): number[] {
  const program = Buffer.concat([planNewSyscalls(profile, libraryNumber), mainProgram]);
  return numbers.map((number) => runFilter(program, { arch, number }));
}

test('planNewSyscalls() handles calls that the library does not know, on every architecture of the profile', () => {
  const profile = resolved([allow('read', 'futex_waitv', 'fchmodat2', 'mseal')]);
  for (const arch of [X86_64, X86]) assert.deepEqual(actionsFor(profile, arch, 0, 449, 452, 453, 462), [MAIN, MAIN, ALLOW, MAIN, ALLOW]);
  assert.deepEqual(actionsFor(profile, X86_64, x32Bit + 452, x32Bit + 453, x32Bit), [ALLOW, MAIN, MAIN]);
});

test('planNewSyscalls() handles calls that only 64-bit x86 has', () => {
  const profile = resolved([allow('uretprobe', 'mseal')]);
  assert.deepEqual(actionsFor(profile, X86_64, 334, 335, x32Bit + 335), [MAIN, ALLOW, ALLOW]);
  assert.deepEqual(actionsFor(profile, X86, 335), [MAIN]);
});

test('planNewSyscalls() returns ENOSYS above the newest call that the profile mentions, even in a rule that does not apply', () => {
  const profile = resolved([allow('read', 'fchmodat2'), { ...allow('mseal'), includes: { caps: ['CAP_SYS_ADMIN'] } }]);
  assert.deepEqual(actionsFor(profile, X86_64, 461, 462, 463, 511, x32Bit + 463), [MAIN, MAIN, ENOSYS, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() returns ENOSYS above the newest number of each architecture, up to the largest number', () => {
  const profile = resolved([allow('read', 'uname')]);
  assert.deepEqual(actionsFor(profile, X86_64, 63, 64, 512, 547, 600, 0x3fffffff), [MAIN, ENOSYS, ENOSYS, ENOSYS, ENOSYS, ENOSYS]);
  assert.deepEqual(actionsFor(profile, X86, 64, 122, 123, 600, -1), [MAIN, MAIN, ENOSYS, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() returns ENOSYS also if other calls end the process', () => {
  assert.deepEqual(actionsFor(resolved([allow('read')], { defaultAction: 'SCMP_ACT_KILL_PROCESS' }), X86_64, 0, 1), [MAIN, ENOSYS]);
});

test('planNewSyscalls() leaves numbers outside of the common sequence and other architectures to the library', () => {
  const profile = resolved([allow('fchmodat2', 'pwritev2')]);
  assert.deepEqual(actionsFor(profile, X86_64, x32Bit + 511, x32Bit + 512, x32Bit + 547, x32Bit + 548), [ENOSYS, MAIN, MAIN, ENOSYS]);
  assert.deepEqual(actionsFor(profile, AARCH64, 452, 470), [MAIN, MAIN]);
});

test('planNewSyscalls() leaves the private calls of arm to the library', () => {
  const document = { defaultAction: 'SCMP_ACT_ERRNO', architectures: ['SCMP_ARCH_ARM'], syscalls: [allow('read', 'fchmodat2', 'set_tls')] };
  const profile = resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch: 'arm64', kernel: '6.18' });
  assert.deepEqual(actionsFor(profile, ARM, 452, 453, 0xf0005), [ALLOW, ENOSYS, MAIN]);
  assert.deepEqual(actionsFor(profile, AARCH64, 452, 453, 0xf0005), [ALLOW, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() leaves all x32 calls to the library, which kills the caller, if the profile has no x32', () => {
  const profile = resolved([allow('fchmodat2')], { architectures: [] });
  assert.deepEqual(actionsFor(profile, X86_64, 452, x32Bit + 452, x32Bit + 470), [ALLOW, MAIN, MAIN]);
  assert.deepEqual(actionsFor(profile, X86, 452), [MAIN]);
});

test('planNewSyscalls() rejects new calls that a permissive profile rejects, with any arguments', () => {
  const args = [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }];
  const reject = (name: string, more: object = {}) => ({ names: [name], action: 'SCMP_ACT_ERRNO', ...more });
  const profile = resolved([reject('mseal'), reject('listns', { args, errnoRet: 38 })], { defaultAction: 'SCMP_ACT_ALLOW' });
  assert.deepEqual(actionsFor(profile, X86_64, 462, 470, 471, 500), [EPERM, ENOSYS, MAIN, MAIN]);
});

test('planNewSyscalls() does not allow a new call that the profile allows only for some arguments', () => {
  const profile = resolved([{ ...allow('mseal'), args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }] }]);
  assert.deepEqual(actionsFor(profile, X86_64, 462), [MAIN]);
});

test('planNewSyscalls() uses the first rule for a call', () => {
  const profile = resolved([allow('mseal'), { names: ['mseal'], action: 'SCMP_ACT_LOG' }]);
  assert.deepEqual(actionsFor(profile, X86_64, 462), [ALLOW]);
});

test('planNewSyscalls() returns nothing if there is nothing to add', () => {
  assert.equal(planNewSyscalls(resolved([allow('read')], { defaultErrnoRet: 38 }), libraryNumber).length, 0);
  assert.equal(planNewSyscalls(resolved([], { defaultAction: 'SCMP_ACT_ALLOW' }), libraryNumber).length, 0);
  assert.equal(planNewSyscalls(resolved([allow('mseal')], { defaultErrnoRet: 38 }), () => 462).length, 0);
});
