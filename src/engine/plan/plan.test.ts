import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AT, CLONE, MOUNT_ATTR, MS, O, OPEN_TREE, RESOLVE, S_IF } from './abi.ts';
import { describePlan } from './describe-plan.ts';
import { encodePlan, type Op, type Plan, planBytesMax, registersMax } from './plan.ts';

const execve: Op = { call: 'execve', path: '/bin/true', note: 'start "/bin/true"' };
const base: Plan = {
  fds: ['exit'],
  parent: [],
  clone: { namespaces: 0 },
  child: [execve],
  process: { argv: ['true'], env: [] },
  supervise: { mode: 'container', hasTerminal: false, exitDir: 'exit' },
};
const mkdir = (path: string, dir = 'exit'): Op => ({ call: 'mkdirat', dir, path, mode: 0o755, note: `create ${path}` });
const open = (out: string): Op => ({ call: 'openat', dir: 'cwd', path: '/', flags: O.PATH, mode: 0, out, note: 'open /' });

test('encodePlan() writes length and counts, and aligns sections to 8 bytes', () => {
  const bytes = encodePlan({ ...base, parent: [mkdir('a'), mkdir('bb')], clone: { namespaces: CLONE.NEWPID } });
  assert.equal(bytes.toString('latin1', 0, 4), 'BRPL');
  assert.equal(bytes.readUInt32LE(8), bytes.length);
  assert.equal(bytes.readBigUInt64LE(16), BigInt(CLONE.NEWPID));
  assert.deepEqual([bytes.readUInt32LE(28), bytes.readUInt32LE(32), bytes.readUInt32LE(36)], [2, 1, 2]);
  assert.equal(bytes.length % 8, 0);
});

test('encodePlan() does not encode notes', () => {
  assert.ok(!encodePlan(base).includes('start'));
});

test('encodePlan() rejects a NUL in a path, an argument and a variable', () => {
  const nul = { code: 'INVALID_ARGUMENT' };
  assert.throws(() => encodePlan({ ...base, parent: [mkdir('a\0b')] }), nul);
  assert.throws(() => encodePlan({ ...base, process: { argv: ['a\0'], env: [] } }), nul);
  assert.throws(() => encodePlan({ ...base, process: { argv: ['a'], env: [Buffer.from('A=\0')] } }), nul);
});

test('encodePlan() preserves bytes that are not UTF-8', () => {
  assert.ok(
    encodePlan({ ...base, process: { argv: ['a'], env: [Buffer.from([0x41, 0x3d, 0xff, 0xfe])] } }).includes(
      Buffer.from([0x41, 0x3d, 0xff, 0xfe, 0]),
    ),
  );
});

test('encodePlan() rejects more bytes than the monitor reads', () => {
  const plan = (length: number): Plan => ({ ...base, process: { argv: ['a'], env: ['x'.repeat(length)] } });
  const overhead = encodePlan(plan(7)).length - 8;
  assert.equal(encodePlan(plan(planBytesMax - overhead - 1)).length, planBytesMax);
  assert.throws(() => encodePlan(plan(planBytesMax - overhead)), { code: 'INVALID_ARGUMENT' });
});

test('encodePlan() requires that a register is defined once, before its use, and not used after its close', () => {
  assert.throws(() => encodePlan({ ...base, parent: [mkdir('a', 'later'), open('later')] }), /later is used but not defined/);
  assert.throws(() => encodePlan({ ...base, parent: [open('exit')] }), /exit is defined twice/);
  assert.throws(() => encodePlan({ ...base, parent: [open('cwd')] }), /cwd is defined twice/);
  const close: Op = { call: 'close', fd: 'exit', note: 'close' };
  assert.throws(() => encodePlan({ ...base, parent: [close] }), /exit is used but not defined/);
});

test('encodePlan() reuses the numbers of closed registers', () => {
  const pair = (i: number): Op[] => [open(`r${i}`), { call: 'close', fd: `r${i}`, note: 'close' }];
  const many = Array.from({ length: 2 * registersMax }, (_, i) => i);
  encodePlan({ ...base, child: [...many.flatMap(pair), execve] });
  assert.throws(() => encodePlan({ ...base, child: [...many.map((i) => open(`r${i}`)), execve] }), { code: 'RESOURCE_EXHAUSTED' });
});

test('encodePlan() requires execve or reap as the last operation, and reap only there', () => {
  assert.throws(() => encodePlan({ ...base, child: [mkdir('a')] }), /the last operation of a plan/);
  assert.throws(() => encodePlan({ ...base, parent: [execve] }), /only for the child/);
  assert.throws(() => encodePlan({ ...base, child: [{ call: 'reap', note: 'reap' }, execve] }), /reap must be the last/);
});

test('describePlan() names flags and registers, and hides the values of variables', () => {
  const plan: Plan = {
    ...base,
    parent: [{ call: 'open_tree', dir: 'cwd', path: '/etc', flags: OPEN_TREE.CLONE | AT.RECURSIVE, out: 'etc', note: 'clone /etc' }],
    clone: { namespaces: CLONE.NEWPID | CLONE.NEWNS },
    child: [
      {
        call: 'mount_setattr',
        dir: 'etc',
        path: '',
        flags: AT.EMPTY_PATH,
        attr: { set: MOUNT_ATTR.RDONLY, propagation: MS.PRIVATE },
        note: 'make /etc read-only',
      },
      {
        call: 'openat2',
        dir: 'exit',
        path: 'x',
        how: { flags: O.PATH, resolve: RESOLVE.IN_ROOT },
        out: 'x',
        tolerate: ['ENOENT'],
        note: 'open x',
      },
      { call: 'mknodat', dir: 'exit', path: 'null', mode: S_IF.IFCHR | 0o666, dev: 0x103, note: 'create null' },
      { call: 'prlimit64', resource: 7, limit: { soft: 1024n, hard: 4096n }, note: 'set the nofile limit' },
      execve,
    ],
    process: { argv: ['true'], env: ['TOKEN=hidden'] },
  };
  assert.equal(
    describePlan(plan),
    [
      'inherit exit',
      'parent open_tree dir=cwd path="/etc" flags=CLONE|RECURSIVE -> @etc # clone /etc',
      'clone namespaces=NEWNS|NEWPID',
      'child mount_setattr dir=@etc path="" flags=EMPTY_PATH attr=+RDONLY,-0,PRIVATE # make /etc read-only',
      'child openat2 dir=@exit path="x" how=PATH,0,IN_ROOT -> @x tolerate=ENOENT # open x',
      'child mknodat dir=@exit path="null" mode=IFCHR|0666 dev=259 # create null',
      'child prlimit64 resource=NOFILE limit=1024:4096 # set the nofile limit',
      'child execve path="/bin/true" # start "/bin/true"',
      'process argv=["true"] env=["TOKEN"]',
      'supervise container hasTerminal=false exitDir="exit"',
    ].join('\n'),
  );
});
