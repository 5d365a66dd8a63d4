import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError, type ErrorCode } from '../../lib/errors.ts';
import { parseSeccompProfile, type SeccompRules } from './seccomp-profile.ts';

const parse = (document: unknown): SeccompRules => parseSeccompProfile(JSON.stringify(document), 'p.json');
const profile = (fields: object) => ({ defaultAction: 'SCMP_ACT_ALLOW', ...fields });
const rule = (fields: object) => profile({ syscalls: [{ names: ['read'], action: 'SCMP_ACT_ERRNO', ...fields }] });

test('parseSeccompProfile() parses the OCI format', () => {
  const rules = parse({
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: 38,
    architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X32'],
    flags: ['SECCOMP_FILTER_FLAG_LOG', 'SECCOMP_FILTER_FLAG_SPEC_ALLOW'],
    syscalls: [{ names: ['clone'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value: 1, valueTwo: 2, op: 'SCMP_CMP_MASKED_EQ' }] }],
  });
  assert.equal(rules.defaultErrno, 38);
  assert.equal(rules.flags, 6);
  assert.deepEqual(rules.architectures, ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X32']);
  assert.deepEqual(rules.rules[0]?.args, [{ index: 0, op: 'SCMP_CMP_MASKED_EQ', value: 1n, valueTwo: 2n }]);
  assert.equal(rules.rules[0]?.errno, 1);
});

test("parseSeccompProfile() parses Docker's fields, and treats null as absent", () => {
  const rules = parse({
    defaultAction: 'SCMP_ACT_ERRNO',
    archMap: [
      { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86'] },
      { architecture: 'SCMP_ARCH_RISCV64', subArchitectures: null },
    ],
    syscalls: [
      {
        name: 'ptrace',
        action: 'SCMP_ACT_ALLOW',
        args: null,
        includes: { minKernel: '4.8', caps: ['CAP_SYS_PTRACE'] },
        excludes: {},
        errnoRet: null,
      },
      { names: ['bpf'], action: 'SCMP_ACT_TRACE', errnoRet: 7, comment: 'why', excludes: { arches: ['s390x'] } },
    ],
  });
  assert.deepEqual(rules.archMap[1], { architecture: 'SCMP_ARCH_RISCV64', subArchitectures: [] });
  assert.deepEqual(rules.rules[0]?.names, ['ptrace']);
  assert.deepEqual(rules.rules[0]?.includes, { capabilities: ['CAP_SYS_PTRACE'], arches: [], minKernel: [4, 8] });
  assert.deepEqual(rules.rules[1]?.excludes.arches, ['s390x']);
  assert.equal(rules.rules[1]?.errno, 7);
});

test('parseSeccompProfile() preserves 64-bit values exactly', () => {
  const text =
    '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":5,"op":"SCMP_CMP_EQ","value":18446744073709551615,"valueTwo":9007199254740993}]}]}';
  const arg = parseSeccompProfile(text, 'p').rules[0]?.args[0];
  assert.deepEqual([arg?.value, arg?.valueTwo], [2n ** 64n - 1n, 2n ** 53n + 1n]);
});

test('parseSeccompProfile() accepts a profile without rules', () => {
  assert.deepEqual(parse(profile({})).rules, []);
  assert.equal(parse(profile({})).flags, 0);
});

const rejected: [string, unknown, string, ErrorCode?][] = [
  ['no default action', {}, 'defaultAction: missing value; want one of'],
  ['an unknown action', profile({ defaultAction: 'ALLOW' }), 'defaultAction: unknown value "ALLOW"; want one of'],
  ['an inherited name as action', profile({ defaultAction: 'toString' }), 'defaultAction: unknown value "toString"; want one of'],
  ['a number beyond 2^53 as action', profile({ defaultAction: 2 ** 60 }), 'defaultAction: unknown value of type bigint; want one of'],
  ['a list as document', [], 'the document: must be an object'],
  ['null as document', null, 'the document: must be an object'],
  ['syscalls that are an object', profile({ syscalls: {} }), 'syscalls: must be a list'],
  ['a rule that is a string', profile({ syscalls: ['read'] }), 'syscalls[0]: must be an object'],
  ['a rule without names', profile({ syscalls: [{ action: 'SCMP_ACT_ALLOW' }] }), 'syscalls[0].names: missing system calls'],
  ['name and names', rule({ name: 'read' }), 'syscalls[0].name: mutually exclusive with names'],
  ['a name that is a number', rule({ names: ['read', 5] }), 'syscalls[0].names[1]: must be a name'],
  ['a name with NUL', rule({ names: ['a\0'] }), 'syscalls[0].names[0]: must be a name'],
  ['a name that is too long', rule({ names: ['a'.repeat(65)] }), 'syscalls[0].names[0]: must be a name'],
  ['an errno that is too large', rule({ errnoRet: 4095 }), 'syscalls[0].errnoRet: must be an integer from 0 to 4094'],
  ['an errno with a fraction', profile({ defaultErrnoRet: 1.5 }), 'defaultErrnoRet: must be an integer'],
  ['an argument that does not exist', rule({ args: [{ index: 6, op: 'SCMP_CMP_EQ' }] }), 'syscalls[0].args[0].index: must be an integer from 0 to 5'],
  ['an argument without an index', rule({ args: [{ op: 'SCMP_CMP_EQ' }] }), 'syscalls[0].args[0].index: must be'],
  ['an unknown comparison', rule({ args: [{ index: 0, op: 'EQ' }] }), 'syscalls[0].args[0].op: unknown value "EQ"; want one of'],
  ['a negative value', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: -1 }] }), 'syscalls[0].args[0].value: must be an integer from 0'],
  ['a value beyond 64 bits', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: 2e20 }] }), 'syscalls[0].args[0].value: must be'],
  ['a value that is a string', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: '1' }] }), 'syscalls[0].args[0].value: must be'],
  ['an invalid kernel version', rule({ includes: { minKernel: '4' } }), 'syscalls[0].includes.minKernel: must be a version such as "4.8"'],
  [
    'both forms of architectures',
    profile({ architectures: ['SCMP_ARCH_X86'], archMap: [{ architecture: 'SCMP_ARCH_X86' }] }),
    'archMap: mutually exclusive with architectures',
  ],
  ['an architecture in another format', profile({ architectures: ['amd64'] }), 'architectures[0]: invalid architecture "amd64"'],
  ['an unknown flag', profile({ flags: ['FAST'] }), 'flags[0]: unknown value "FAST"; want one of'],
  ['too many rules', profile({ syscalls: Array(2049).fill({}) }), 'syscalls: 2049 entries exceed the limit of 2048'],
  [
    'too many names',
    profile({ syscalls: Array(2).fill({ names: Array(2049).fill('a'), action: 'SCMP_ACT_ALLOW' }) }),
    'syscalls: 4098 names exceed the limit of 4096',
  ],
  ['notification', rule({ action: 'SCMP_ACT_NOTIFY' }), 'syscalls[0].action: seccomp notification', 'UNIMPLEMENTED'],
  ['notification by default', { defaultAction: 'SCMP_ACT_NOTIFY' }, 'defaultAction: seccomp notification', 'UNIMPLEMENTED'],
  ['a listener', profile({ listenerPath: '/run/l.sock' }), 'listenerPath: seccomp notification', 'UNIMPLEMENTED'],
  ['a flag for listeners', profile({ flags: ['SECCOMP_FILTER_FLAG_NEW_LISTENER'] }), 'flags[0]: seccomp notification', 'UNIMPLEMENTED'],
];
for (const [what, document, message, code = 'INVALID_ARGUMENT'] of rejected) {
  test(`parseSeccompProfile() rejects ${what} and names the field`, () => {
    const isExpected = (error: unknown) =>
      error instanceof BerthError && error.code === code && error.message.startsWith(`seccomp profile p.json: ${message}`);
    assert.throws(() => parse(document), isExpected);
  });
}

test('parseSeccompProfile() rejects text that is not JSON, too long or too deep, with a message of one line', () => {
  for (const text of ['', '{', '{"a":\n\n}', `"${'x'.repeat(1024 * 1024)}"`, `${'['.repeat(200_000)}${']'.repeat(200_000)}`]) {
    const isExpected = (error: unknown) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('\n');
    assert.throws(() => parseSeccompProfile(text, 'p.json'), isExpected);
  }
});

test('parseSeccompProfile() ignores __proto__', () => {
  assert.throws(() => parseSeccompProfile('{"__proto__":{"defaultAction":"SCMP_ACT_ALLOW"}}', 'p'), /defaultAction: missing value/);
});
