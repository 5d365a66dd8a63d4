import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../lib/errors.ts';
import { resolveProfile } from './seccomp.ts';
import { createSeccompCompiler } from './seccomp-compiler.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

function resolved(name: string, more: object = {}) {
  const document = { defaultAction: 'SCMP_ACT_LOG', syscalls: [{ names: [name], action: 'SCMP_ACT_ALLOW' }], ...more };
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch: 'x64', kernel: '6.18' });
}

/** A fake library that knows every name, and the names that it was asked for. */
function createFake() {
  const asked: string[] = [];
  const syscallNumber = (name: string): number => {
    if (asked.at(-1) !== name) asked.push(name);
    return 7;
  };
  return { asked, libseccomp: { syscallNumber } };
}

test('compile() builds one program for equal content and returns the flags', () => {
  const { asked, libseccomp } = createFake();
  const { compile } = createSeccompCompiler({ libseccomp, programsMax: 2 });
  const flags = { flags: ['SECCOMP_FILTER_FLAG_LOG'] };
  assert.equal(compile(resolved('read', flags)).flags, 2);
  assert.equal(compile(resolved('read', flags)).program, compile(resolved('read', flags)).program);
  assert.deepEqual(asked, ['read']);
});

test('compile() evicts the least recently used program', () => {
  const { asked, libseccomp } = createFake();
  const { compile } = createSeccompCompiler({ libseccomp, programsMax: 2 });
  for (const name of ['a', 'b', 'a', 'c', 'a', 'b']) compile(resolved(name));
  assert.deepEqual(asked, ['a', 'b', 'c', 'b']);
});

test('compile() rejects a program larger than the kernel allows, and does not cache it', () => {
  const { asked, libseccomp } = createFake();
  const { compile } = createSeccompCompiler({ libseccomp, programsMax: 2 });
  const withConditions = (count: number) => {
    const args = (value: number) => [0, 1].map((index) => ({ index, op: 'SCMP_CMP_EQ', value }));
    return resolved('other', {
      syscalls: Array.from({ length: count }, (_, value) => ({ names: ['a'], action: 'SCMP_ACT_ALLOW', args: args(value) })),
    });
  };
  // Nine instructions for each rule.
  assert.equal(compile(withConditions(400)).program.length % 8, 0);
  assert.deepEqual(asked, ['a']);
  const isTooLarge = (error: unknown) =>
    error instanceof BerthError && error.code === 'INVALID_ARGUMENT' && /^\d+ instructions exceed the kernel's limit of 4096$/.test(error.message);
  for (let i = 0; i < 2; i++) assert.throws(() => compile(withConditions(460)), isTooLarge);
});
