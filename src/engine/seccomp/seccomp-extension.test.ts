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
/** The system calls of these tests that libseccomp 2.5.4 knows. */
const libraryNumber = (name: string): number | undefined => ({ read: 0, futex_waitv: 449, rt_sigaction: 13 })[name];
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

test('planNewSyscalls() returns ENOSYS above the newest call that the profile mentions, even in a rule that does not apply', () => {
  const profile = resolved([allow('read', 'fchmodat2'), { ...allow('mseal'), includes: { caps: ['CAP_SYS_ADMIN'] } }]);
  assert.deepEqual(actionsFor(profile, X86_64, 461, 462, 463, 511, x32Bit + 463), [MAIN, MAIN, ENOSYS, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() leaves calls below the unified numbers to the rules, however old the profile', () => {
  assert.deepEqual(actionsFor(resolved([allow('read')]), X86_64, 1, 423, 424, 450), [MAIN, MAIN, ENOSYS, ENOSYS]);
});

test('planNewSyscalls() leaves numbers specific to x32, invalid numbers and other architectures to the library', () => {
  const profile = resolved([allow('fchmodat2')]);
  assert.deepEqual(actionsFor(profile, X86_64, 512, 547, x32Bit + 512, -1, 0x7fffffff), [MAIN, MAIN, MAIN, MAIN, MAIN]);
  assert.deepEqual(actionsFor(profile, 0xc00000b7, 452, 470), [MAIN, MAIN]);
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
