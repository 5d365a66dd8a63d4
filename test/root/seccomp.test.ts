/**
 * Seccomp programs with the numbers of the real libseccomp: compares each program with its rules for every call, and tests it on the running kernel with
 * a probe.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type ResolvedProfile, resolveProfile } from '../../src/engine/seccomp/seccomp.ts';
import { createSeccompCompiler } from '../../src/engine/seccomp/seccomp-compiler.ts';
import { defaultProfile } from '../../src/engine/seccomp/seccomp-default.ts';
import { parseSeccompProfile } from '../../src/engine/seccomp/seccomp-profile.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { createLibseccomp } from '../../src/sys/library/libseccomp.ts';
import { type Call, runFilter } from '../support/bpf.ts';
import { actionByRules } from '../support/seccomp-rules.ts';
import { staticProgram } from '../support/static-program.ts';

const libseccomp = createLibseccomp();
const { compile } = createSeccompCompiler({ libseccomp, programsMax: 64 });
const ordinary = 0xa80425fbn;
const SYS_ADMIN = 1n << 21n;
const context = { capabilities: ordinary, arch: 'x64', kernel: '6.18.0' };
const X86_64 = 0xc000003e;
const [EPERM, EFAULT, EINVAL, ENOSYS, EPROTONOSUPPORT] = [-1, -14, -22, -38, -93];

function resolved(document: object, changes: Partial<typeof context> = {}): ResolvedProfile {
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { ...context, ...changes });
}

describe('a program', { skip: process.arch !== 'x64' && 'the numbers are for x86-64' }, () => {
  const nativeOnly = (profile: ResolvedProfile): ResolvedProfile => ({ ...profile, architectures: ['x86_64'] });

  for (const [name, capabilities] of Object.entries({ 'no capability': 0n, 'the ordinary ones': ordinary, SYS_ADMIN, all: (1n << 41n) - 1n })) {
    test(`of the default profile with ${name} matches its rules for each call`, () => {
      const profile = resolveProfile(defaultProfile, { ...context, capabilities });
      for (const each of [profile, nativeOnly(profile)]) assertFollowsRules(each);
    });
  }

  test('of a profile with all comparisons matches its rules for each call', () => {
    const arg = (index: number, op: string, value: number, valueTwo = 0) => ({ index, op: `SCMP_CMP_${op}`, value, valueTwo });
    const rule = (name: string, ...args: object[]) => ({ names: [name], action: 'SCMP_ACT_ERRNO', errnoRet: 77, args });
    const syscalls = [
      ...[rule('read', arg(0, 'NE', 1)), rule('write', arg(0, 'LT', 40)), rule('open', arg(1, 'LE', 40)), rule('close', arg(0, 'EQ', 2 ** 32 + 38))],
      ...[rule('stat', arg(0, 'GE', 40)), rule('fstat', arg(0, 'GT', 40)), rule('lstat', arg(0, 'MASKED_EQ', 0xff00000001, 1))],
      ...[rule('poll', arg(0, 'EQ', 1), arg(1, 'GT', 1)), rule('lseek', arg(0, 'EQ', 1), arg(0, 'EQ', 40))],
    ];
    for (const defaultAction of ['SCMP_ACT_ALLOW', 'SCMP_ACT_KILL_PROCESS']) assertFollowsRules(resolved({ defaultAction, syscalls }));
  });

  test('applies the same rule to a call on all ABIs: x86-64, i386, x32', () => {
    const { program } = compile(resolveProfile(defaultProfile, context));
    const x32 = 0x40000000;
    const i386 = 0x40000003;
    const ways: Record<string, Call[]> = {
      mount: [
        { arch: X86_64, number: 165 },
        { arch: X86_64, number: x32 + 165 },
        { arch: i386, number: 21 },
      ],
      unshare: [
        { arch: X86_64, number: 272 },
        { arch: X86_64, number: x32 + 272 },
        { arch: i386, number: 310 },
      ],
      io_uring_setup: [
        { arch: X86_64, number: 425 },
        { arch: X86_64, number: x32 + 425 },
        { arch: i386, number: 425 },
      ],
      ioperm: [
        { arch: X86_64, number: 173 },
        { arch: X86_64, number: x32 + 173 },
        { arch: i386, number: 101 },
      ],
    };
    for (const [name, calls] of Object.entries(ways)) for (const call of calls) assert.equal(runFilter(program, call), 0x50001, name);
    const read: Call[] = [
      { arch: X86_64, number: 0 },
      { arch: X86_64, number: x32 },
      { arch: i386, number: 3 },
    ];
    for (const call of read) assert.equal(runFilter(program, call), 0x7fff0000);
  });

  test('kills the thread on a call of an architecture that is not in the profile', () => {
    const { program } = compile(resolveProfile(defaultProfile, context));
    assert.equal(runFilter(program, { arch: 0xc00000b7, number: 63 }), 0);
  });
});

test('compile() rejects different actions for the same arguments and names the call', () => {
  const rule = (action: string) => ({ names: ['mount'], action, args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }] });
  const contradiction = { defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule('SCMP_ACT_ERRNO'), rule('SCMP_ACT_KILL')] };
  const isExpected = (error: unknown) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && /rules for mount/.test(error.message);
  assert.throws(() => compile(resolved(contradiction)), isExpected);
});

test('compile() prefers rules without conditions, and earlier rules', () => {
  const rule = (errnoRet: number, ...values: number[]) => ({
    names: ['mount'],
    action: 'SCMP_ACT_ERRNO',
    errnoRet,
    args: values.map((value) => ({ index: 0, value, op: 'SCMP_CMP_EQ' })),
  });
  const { program } = compile(resolved({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [rule(5, 1), rule(6), rule(7)] }));
  for (const args of [[0n], [1n]]) assert.equal(runFilter(program, { arch: X86_64, number: 165, args }), 0x50006);
});

test('compile() ignores unknown names', () => {
  const syscalls = [{ names: ['no_such_call', 'mount'], action: 'SCMP_ACT_ERRNO' }];
  assert.equal(runFilter(compile(resolved({ defaultAction: 'SCMP_ACT_ALLOW', syscalls })).program, { arch: X86_64, number: 165 }), 0x50001);
});

const numberOf = (name: string): number | undefined => libseccomp.syscallNumber(name, 'x86_64') ?? { uretprobe: 335 }[name];

/** Compares a program with a simple interpretation of its rules, for all numbers and selected arguments. */
function assertFollowsRules(profile: ResolvedProfile): void {
  const { program } = compile(profile);
  const namesOf = new Map<number, string[]>();
  for (const name of new Set(profile.rules.flatMap(({ syscalls }) => syscalls))) {
    const number = numberOf(name);
    if (number !== undefined) namesOf.set(number, [...(namesOf.get(number) ?? []), name]);
  }
  const newest = Math.max(...[...profile.mentioned].map((name) => numberOf(name) ?? 0));
  for (let number = 0; number <= Math.min(newest, 450); number++) {
    const names = namesOf.get(number) ?? [];
    const isConditional = profile.rules.some(({ syscalls, args }) => args.length > 0 && syscalls.some((name) => names.includes(name)));
    for (const args of isConditional ? tellingArgs : [[]]) {
      assert.equal(runFilter(program, { arch: X86_64, number, args }), actionByRules(profile, names, args), `call ${number} (${args.join(', ')})`);
    }
  }
}

const tellingValues = [
  0n,
  1n,
  2n,
  8n,
  31n,
  32n,
  37n,
  38n,
  39n,
  40n,
  41n,
  63n,
  64n,
  0x20000n,
  0x20008n,
  0x10000000n,
  0xffffffffn,
  0x100000000n,
].concat([0x100000001n, 0x100000026n, 0x100000028n, 0x8000000000000000n, 0xffffffffffffffffn]);
const tellingArgs = tellingValues.flatMap((first) => [0n, 1n, 40n, 41n, 0x100000000n].map((second) => [first, second]));

describe('on the running kernel', { skip: process.arch !== 'x64' && 'the probe is for x86-64' }, () => {
  const directory = mkdtempSync(join(tmpdir(), 'berth-seccomp-'));
  after(() => rmSync(directory, { recursive: true, force: true }));
  const probe = staticProgram(join(import.meta.dirname, 'seccomp-probe.c'));

  function run(profile: ResolvedProfile, ...calls: string[]) {
    const { program, flags } = compile(profile);
    const path = join(directory, 'program');
    writeFileSync(path, program);
    const { stdout, signal, status, stderr } = spawnSync(probe, [path, String(flags), ...calls], { encoding: 'utf8', timeout: 30_000 });
    return { results: stdout.split('\n').filter(Boolean).map(Number), signal, status, stderr };
  }

  const cases: Record<string, [string, number][]> = {
    'rejects calls with a large attack surface': [
      ...(['64:165', '64:272:0x20000', '64:425', '64:250', '64:321', '64:323', '64:167'] as const).map((call): [string, number] => [call, EPERM]),
      ...([
        ['32:21', EPERM],
        ['32:425', EPERM],
        ['x32:165', EPERM],
      ] as [string, number][]),
    ],
    'rejects clone3 and clone with namespaces, and allows other clones': [
      ['64:435', ENOSYS],
      ['64:56:0x10000000', EPERM],
      ['64:56:0x20000', EPERM],
      // CLONE_SIGHAND without CLONE_VM: passes the filter, rejected by the kernel.
      ['64:56:0x800', EINVAL],
    ],
    'rejects sockets of other families than ordinary ones, such as AF_ALG and AF_VSOCK, also with bits above the family': [
      ['64:41:38:5', EPERM],
      ['64:41:40:1', EPERM],
      ['64:41:0x100000026:5', EPERM],
      ['64:41:0xffffffff00000028:1', EPERM],
      ...([0, 3, 15, 18, 29, 31, 41, 63, 64].map((family) => [`64:41:${family}:1`, EPERM]) as [string, number][]),
      ['64:53:38:5', EPERM],
      // The kernel's view of the family is AF_UNIX: passes the filter, fails for its protocol.
      ['64:41:0x100000001:1:99', EPROTONOSUPPORT],
      ['32:359:38:5', EPERM],
      ['32:102:1:0', EFAULT],
    ],
    'allows only the usual personalities': [
      ['64:135:0xffffffff', 0],
      ['64:135:0', 0],
      ['64:135:0x40000', EPERM],
    ],
    'allows calls newer than libseccomp, and returns ENOSYS for even newer ones': [
      ['64:452:-1:0', EFAULT],
      ['32:452:-1:0', EFAULT],
      ['64:461', EFAULT],
      ...(['64:467', '64:470', '64:600', '32:467', '32:600', 'x32:600'].map((call) => [call, ENOSYS]) as [string, number][]),
    ],
  };
  for (const [what, expected] of Object.entries(cases)) {
    test(`the default profile ${what}`, () => {
      const { results, signal, stderr } = run(resolveProfile(defaultProfile, context), ...expected.map(([call]) => call));
      assert.deepEqual({ results, signal, stderr }, { results: expected.map(([, result]) => result), signal: null, stderr: '' });
    });
  }

  test('the default profile allows calls of three ABIs', () => {
    const { results } = run(resolveProfile(defaultProfile, context), '64:39', '32:20', '64:41:1:1');
    assert.ok(results.every((result) => result > 0) && results.length === 3 && results[0] === results[1], String(results));
  });

  test('the default profile with SYS_ADMIN allows mount, unshare and clone3', () => {
    const { results } = run(
      resolveProfile(defaultProfile, { ...context, capabilities: ordinary | SYS_ADMIN }),
      '64:272:0',
      '64:165:0:0',
      '64:435:0:0',
    );
    assert.deepEqual(results, [0, EFAULT, EINVAL]);
  });

  test('a profile without i386 kills a process that makes an i386 call', () => {
    const { results, signal } = run(
      resolved({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: [{ names: ['mount'], action: 'SCMP_ACT_ERRNO' }] }),
      '64:39',
      '32:20',
      '64:39',
    );
    assert.deepEqual([results.length, signal], [1, 'SIGSYS']);
  });

  test('the actions errno, kill and log work', () => {
    const rule = (name: string, action: string, more: object = {}) => ({ names: [name], action: `SCMP_ACT_${action}`, ...more });
    const syscalls = [rule('getppid', 'ERRNO', { errnoRet: 42 }), rule('getpgrp', 'LOG'), rule('getsid', 'KILL_PROCESS')];
    const { results, signal } = run(
      resolved({ defaultAction: 'SCMP_ACT_ALLOW', flags: ['SECCOMP_FILTER_FLAG_LOG'], syscalls }),
      '64:110',
      '64:111',
      '64:124',
      '64:39',
    );
    assert.deepEqual([results[0], (results[1] ?? 0) >= 0, results.length, signal], [-42, true, 2, 'SIGSYS']);
  });
});
