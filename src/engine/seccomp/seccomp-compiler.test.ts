import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FilterSource } from '../../sys/library/libseccomp.ts';
import { resolveProfile } from './seccomp.ts';
import { createSeccompCompiler } from './seccomp-compiler.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

function resolved(name: string, more: object = {}) {
  const document = { defaultAction: 'SCMP_ACT_LOG', syscalls: [{ names: [name], action: 'SCMP_ACT_ALLOW' }], ...more };
  return resolveProfile(parseSeccompProfile(JSON.stringify(document), 'p'), { capabilities: 0n, arch: 'x64', kernel: '6.18' });
}

/** A fake library whose programs have a number of instructions, and the system calls for which it was called. */
function createFake(instructions = 1) {
  const built: string[] = [];
  const buildFilter = (source: FilterSource): Buffer => {
    built.push(source.rules[0]?.syscalls[0] ?? '');
    return Buffer.alloc(8 * instructions);
  };
  return { built, libseccomp: { buildFilter, syscallNumber: () => 0 } };
}

test('compile() builds one program for equal content and returns the flags', () => {
  const { built, libseccomp } = createFake();
  const { compile } = createSeccompCompiler({ libseccomp, programsMax: 2 });
  const flags = { flags: ['SECCOMP_FILTER_FLAG_LOG'] };
  assert.equal(compile(resolved('read', flags)).flags, 2);
  assert.equal(compile(resolved('read', flags)).program, compile(resolved('read', flags)).program);
  assert.deepEqual(built, ['read']);
});

test('compile() evicts the least recently used program', () => {
  const { built, libseccomp } = createFake();
  const { compile } = createSeccompCompiler({ libseccomp, programsMax: 2 });
  for (const name of ['a', 'b', 'a', 'c', 'a', 'b']) compile(resolved(name));
  assert.deepEqual(built, ['a', 'b', 'c', 'b']);
});

test('compile() rejects a program larger than the kernel allows, and does not cache it', () => {
  const [largest, tooLarge] = [createFake(4096), createFake(4097)];
  assert.equal(createSeccompCompiler({ libseccomp: largest.libseccomp, programsMax: 2 }).compile(resolved('a')).program.length, 32768);
  const { compile } = createSeccompCompiler({ libseccomp: tooLarge.libseccomp, programsMax: 2 });
  for (let i = 0; i < 2; i++) assert.throws(() => compile(resolved('a')), /4097 instructions exceed the kernel's limit of 4096/);
  assert.deepEqual(tooLarge.built, ['a', 'a']);
});
