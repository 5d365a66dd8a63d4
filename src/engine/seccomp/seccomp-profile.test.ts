import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError, type ErrorCode } from '../../lib/errors.ts';
import { parseSeccompProfile, type SeccompRules } from './seccomp-profile.ts';

const parse = (document: unknown): SeccompRules => parseSeccompProfile(JSON.stringify(document), 'p.json');
const profile = (fields: object) => ({ defaultAction: 'SCMP_ACT_ALLOW', ...fields });
const rule = (fields: object) => profile({ syscalls: [{ names: ['read'], action: 'SCMP_ACT_ERRNO', ...fields }] });

test('parseSeccompProfile() reads the OCI format', () => {
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

test("parseSeccompProfile() reads Docker's fields, and null as absent", () => {
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

test('parseSeccompProfile() keeps every digit of 64-bit values', () => {
  const text =
    '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":5,"op":"SCMP_CMP_EQ","value":18446744073709551615,"valueTwo":9007199254740993}]}]}';
  const arg = parseSeccompProfile(text, 'p').rules[0]?.args[0];
  assert.deepEqual([arg?.value, arg?.valueTwo], [2n ** 64n - 1n, 2n ** 53n + 1n]);
});

test('parseSeccompProfile() takes a profile without rules', () => {
  assert.deepEqual(parse(profile({})).rules, []);
  assert.equal(parse(profile({})).flags, 0);
});

const refused: [string, unknown, string, ErrorCode?][] = [
  ['no default action', {}, 'defaultAction: nothing is none of'],
  ['an unknown action', profile({ defaultAction: 'ALLOW' }), 'defaultAction: "ALLOW" is none of'],
  ['an inherited name as action', profile({ defaultAction: 'toString' }), 'defaultAction: "toString" is none of'],
  ['a number beyond 2^53 as action', profile({ defaultAction: 2 ** 60 }), 'defaultAction: what is no text (bigint) is none of'],
  ['a list as document', [], 'the document: must be an object'],
  ['null as document', null, 'the document: must be an object'],
  ['syscalls that are an object', profile({ syscalls: {} }), 'syscalls: must be a list'],
  ['a rule that is a text', profile({ syscalls: ['read'] }), 'syscalls[0]: must be an object'],
  ['a rule without names', profile({ syscalls: [{ action: 'SCMP_ACT_ALLOW' }] }), 'syscalls[0].names: names no system call'],
  ['name and names', rule({ name: 'read' }), 'syscalls[0].name: either this or names'],
  ['a name that is a number', rule({ names: ['read', 5] }), 'syscalls[0].names[1]: must be a name'],
  ['a name with NUL', rule({ names: ['a\0'] }), 'syscalls[0].names[0]: must be a name'],
  ['a name too long', rule({ names: ['a'.repeat(65)] }), 'syscalls[0].names[0]: must be a name'],
  ['an errno too large', rule({ errnoRet: 4096 }), 'syscalls[0].errnoRet: must be an integer from 0 to 4095'],
  ['an errno with a fraction', profile({ defaultErrnoRet: 1.5 }), 'defaultErrnoRet: must be an integer'],
  ['an argument that does not exist', rule({ args: [{ index: 6, op: 'SCMP_CMP_EQ' }] }), 'syscalls[0].args[0].index: must be an integer from 0 to 5'],
  ['an argument without index', rule({ args: [{ op: 'SCMP_CMP_EQ' }] }), 'syscalls[0].args[0].index: must be'],
  ['an unknown comparison', rule({ args: [{ index: 0, op: 'EQ' }] }), 'syscalls[0].args[0].op: "EQ" is none of'],
  ['a negative value', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: -1 }] }), 'syscalls[0].args[0].value: must be an integer from 0'],
  ['a value beyond 64 bits', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: 2e20 }] }), 'syscalls[0].args[0].value: must be'],
  ['a value as text', rule({ args: [{ index: 0, op: 'SCMP_CMP_EQ', value: '1' }] }), 'syscalls[0].args[0].value: must be'],
  ['a kernel that is no version', rule({ includes: { minKernel: '4' } }), 'syscalls[0].includes.minKernel: must be like "4.8"'],
  [
    'both forms of architectures',
    profile({ architectures: ['SCMP_ARCH_X86'], archMap: [{ architecture: 'SCMP_ARCH_X86' }] }),
    'archMap: either this',
  ],
  ['an architecture of another form', profile({ architectures: ['amd64'] }), 'architectures[0]: "amd64" is no architecture'],
  ['an unknown flag', profile({ flags: ['FAST'] }), 'flags[0]: "FAST" is none of'],
  ['too many rules', profile({ syscalls: Array(2049).fill({}) }), 'syscalls: has 2049 entries, more than 2048'],
  [
    'too many names',
    profile({ syscalls: Array(2).fill({ names: Array(2049).fill('a'), action: 'SCMP_ACT_ALLOW' }) }),
    'syscalls: 4098 names are more',
  ],
  ['notification', rule({ action: 'SCMP_ACT_NOTIFY' }), 'syscalls[0].action: notification', 'UNIMPLEMENTED'],
  ['notification by default', { defaultAction: 'SCMP_ACT_NOTIFY' }, 'defaultAction: notification', 'UNIMPLEMENTED'],
  ['a listener', profile({ listenerPath: '/run/l.sock' }), 'listenerPath: notification', 'UNIMPLEMENTED'],
  ['a flag for listeners', profile({ flags: ['SECCOMP_FILTER_FLAG_NEW_LISTENER'] }), 'flags[0]: notification', 'UNIMPLEMENTED'],
];
for (const [what, document, message, code = 'INVALID_ARGUMENT'] of refused) {
  test(`parseSeccompProfile() refuses ${what} and says where`, () => {
    const isExpected = (error: unknown) =>
      error instanceof BerthError && error.code === code && error.message.startsWith(`seccomp profile p.json: ${message}`);
    assert.throws(() => parse(document), isExpected);
  });
}

test('parseSeccompProfile() refuses what is no JSON, too long or too deep, in one line', () => {
  for (const text of ['', '{', '{"a":\n\n}', `"${'x'.repeat(1024 * 1024)}"`, `${'['.repeat(200_000)}${']'.repeat(200_000)}`]) {
    const isExpected = (error: unknown) => error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && !error.message.includes('\n');
    assert.throws(() => parseSeccompProfile(text, 'p.json'), isExpected);
  }
});

test('parseSeccompProfile() is not led astray by __proto__', () => {
  assert.throws(() => parseSeccompProfile('{"__proto__":{"defaultAction":"SCMP_ACT_ALLOW"}}', 'p'), /defaultAction: nothing/);
});
