/**
 * Fuzzes seccomp profiles: a profile with an unusual value in any place is accepted, or rejected with a BerthError that names the field.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { resolveProfile } from '../../src/engine/seccomp/seccomp.ts';
import { parseSeccompProfile } from '../../src/engine/seccomp/seccomp-profile.ts';
import { BerthError } from '../../src/lib/errors.ts';

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
