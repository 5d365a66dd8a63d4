import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DeviceRule, deviceRules } from './device-rules.ts';

const listed = (requested: readonly DeviceRule[]): { lines: readonly string[]; program: Buffer } => {
  const policy = deviceRules({ isPrivileged: false, requested });
  assert(policy.kind === 'listed');
  return { lines: policy.v1Allows, program: policy.v2Program };
};

const standardLines = [
  'c *:* m',
  'b *:* m',
  'c 1:3 rwm',
  'c 1:5 rwm',
  'c 1:7 rwm',
  'c 1:8 rwm',
  'c 1:9 rwm',
  'c 5:0 rwm',
  'c 5:2 rwm',
  'c 136:* rwm',
  'c 10:200 rwm',
];

test('deviceRules() allows the standard devices, and the creation of any node', () => {
  assert.deepEqual(listed([]).lines, standardLines);
});

test('deviceRules() allows all devices for a privileged container', () => {
  assert.deepEqual(deviceRules({ isPrivileged: true, requested: [{ type: 'block', major: 8, minor: 0, access: 'r' }] }), { kind: 'all' });
});

test('deviceRules() merges the rules of one device, because one rule must grant all access of an open', () => {
  const { lines } = listed([
    { type: 'block', major: 8, minor: 0, access: 'r' },
    { type: 'block', major: 8, minor: 0, access: 'w' },
    { type: 'char', major: 1, minor: 3, access: 'r' },
  ]);
  assert.deepEqual(lines, [...standardLines, 'b 8:0 rw']);
});

/** In the format of bpftool(8), so that changes are readable. */
test('deviceRules() generates the expected program', () => {
  const { program } = listed([{ type: 'block', major: 259, minor: 7, access: 'r' }]);
  const words = Array.from({ length: program.length / 8 }, (_, index) => program.toString('hex', 8 * index, 8 * index + 8));
  const prologue = ['6112000000000000', '54020000ffff0000', '6113000000000000', '7403000010000000', '6114040000000000', '6115080000000000'];
  const allow = ['b700000001000000', '9500000000000000'];
  const mknodAnyChar = ['5502050002000000', 'bc31000000000000', '5401000001000000', '5d31020000000000', ...allow];
  const mknodAnyBlock = ['5502050001000000', 'bc31000000000000', '5401000001000000', '5d31020000000000', ...allow];
  const device = (type: string, major: string, minor: string): string[] => [
    `55020400${type}000000`,
    `55040300${major}0000`,
    `55050200${minor}000000`,
    ...allow,
  ];
  assert.deepEqual(words, [
    ...prologue,
    ...mknodAnyChar,
    ...mknodAnyBlock,
    ...['03', '05', '07', '08', '09'].flatMap((minor) => device('02', '0100', minor)),
    ...['00', '02'].flatMap((minor) => device('02', '0500', minor)),
    ...['5502030002000000', '5504020088000000', ...allow],
    ...device('02', '0a00', 'c8'),
    // The requested device is read-only, so the access is checked too.
    ...['5502070001000000', 'bc31000000000000', '5401000002000000', '5d31040000000000', '5504030003010000', '5505020007000000', ...allow],
    ...['b700000000000000', '9500000000000000'],
  ]);
});

test('deviceRules() returns a program with the same decisions as the lines of v1', () => {
  const { program } = listed([
    { type: 'block', major: 259, minor: 7, access: 'r' },
    { type: 'char', major: 240, minor: 'any', access: 'rw' },
  ]);
  const cases: readonly (readonly ['b' | 'c', number, number, string, 0 | 1])[] = [
    ['c', 1, 3, 'rw', 1],
    ['c', 1, 3, 'm', 1],
    ['c', 1, 4, 'r', 0],
    ['c', 1, 4, 'm', 1],
    ['b', 1, 3, 'r', 0],
    ['c', 136, 77, 'rw', 1],
    ['c', 10, 200, 'rw', 1],
    ['c', 10, 229, 'rw', 0],
    ['c', 5, 0, 'rw', 1],
    ['c', 5, 1, 'r', 0],
    ['c', 5, 1, 'm', 1],
    ['b', 259, 7, 'r', 1],
    ['b', 259, 7, 'w', 0],
    ['b', 259, 7, 'rw', 0],
    ['b', 259, 8, 'r', 0],
    ['b', 259, 8, 'm', 1],
    ['c', 240, 1_048_575, 'rw', 1],
    ['c', 240, 0, 'rwm', 0],
  ];
  for (const [type, major, minor, access, verdict] of cases) {
    assert.equal(run(program, { type: type === 'b' ? 1 : 2, access, major, minor }), verdict, `${type} ${major}:${minor} ${access}`);
  }
});

/** An interpreter for the instructions in use, written from RFC 9669 and independent of the generator. */
function run(program: Buffer, request: { type: number; access: string; major: number; minor: number }): number {
  const bits = (request.access.includes('m') ? 1 : 0) | (request.access.includes('r') ? 2 : 0) | (request.access.includes('w') ? 4 : 0);
  const context = [(bits << 16) | request.type, request.major, request.minor];
  const registers = new Array<number>(11).fill(0);
  const get = (register: number): number => registers[register] ?? 0;
  for (let pc = 0; ; pc++) {
    const [opcode, both, offset, immediate] = [
      program.readUInt8(8 * pc),
      program.readUInt8(8 * pc + 1),
      program.readInt16LE(8 * pc + 2),
      program.readInt32LE(8 * pc + 4),
    ];
    const [destination, source] = [both & 15, both >> 4];
    if (opcode === 0x61) registers[destination] = context[offset / 4] ?? 0;
    else if (opcode === 0x54) registers[destination] = get(destination) & immediate;
    else if (opcode === 0x74) registers[destination] = get(destination) >>> immediate;
    else if (opcode === 0xbc) registers[destination] = get(source);
    else if (opcode === 0xb7) registers[destination] = immediate;
    else if (opcode === 0x55) pc += get(destination) !== immediate ? offset : 0;
    else if (opcode === 0x5d) pc += get(destination) !== get(source) ? offset : 0;
    else if (opcode === 0x95) return get(0);
    else assert.fail(`unknown opcode ${opcode}`);
  }
}
