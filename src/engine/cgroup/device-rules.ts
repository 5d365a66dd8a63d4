/**
 * Plans which devices a container may use: lines for the devices controller of cgroup v1, and a BPF program for v2.
 *
 * Pure: src/sys/cgroup/cgroups.ts writes the lines, or loads and attaches the program. The program type is BPF_PROG_TYPE_CGROUP_DEVICE. Instructions
 * have 8 bytes (RFC 9669); the context is struct bpf_cgroup_dev_ctx of include/uapi/linux/bpf.h. Little-endian machines only.
 */
import assert from 'node:assert/strict';
import type { DevicePolicy } from '../../sys/cgroup/cgroup-facts.ts';

/** A device that may be opened or created. `any`: every number. */
export type DeviceRule = {
  readonly type: 'char' | 'block';
  readonly major: number | 'any';
  readonly minor: number | 'any';
  /** Any of `r` (open for reading), `w` (open for writing), `m` (mknod). */
  readonly access: string;
};

/**
 * Numbers: Documentation/admin-guide/devices.txt. The same as in runc 1.5.3 (AllowedDevices of libcontainer/specconv/spec_linux.go). Not 5:1, the
 * console of the host: a container's /dev/console is a bind mount of its pty.
 */
const defaultRules: readonly DeviceRule[] = [
  // Any node can be created, as tar does, but not opened.
  { type: 'char', major: 'any', minor: 'any', access: 'm' },
  { type: 'block', major: 'any', minor: 'any', access: 'm' },
  ...[3, 5, 7, 8, 9].map((minor): DeviceRule => ({ type: 'char', major: 1, minor, access: 'rwm' })), // null zero full random urandom
  ...[0, 2].map((minor): DeviceRule => ({ type: 'char', major: 5, minor, access: 'rwm' })), // tty ptmx
  { type: 'char', major: 136, minor: 'any', access: 'rwm' }, // /dev/pts/*
  { type: 'char', major: 10, minor: 200, access: 'rwm' }, // /dev/net/tun
];

/** Returns the device policy of a container. `requested` are devices in addition to the standard ones; a privileged container may use all devices. */
export function deviceRules(spec: { readonly isPrivileged: boolean; readonly requested: readonly DeviceRule[] }): DevicePolicy {
  if (spec.isPrivileged) return { kind: 'all' };
  const rules = mergeRules([...defaultRules, ...spec.requested]);
  return { kind: 'listed', v1Allows: rules.map(v1Line), v2Program: deviceProgram(rules) };
}

/** Merges the rules of each device: in both versions, a single rule must allow an open for reading and writing. */
function mergeRules(rules: readonly DeviceRule[]): DeviceRule[] {
  const merged = new Map<string, DeviceRule>();
  for (const rule of rules) {
    assert.match(rule.access, /^[rwm]+$/);
    const key = `${rule.type} ${rule.major}:${rule.minor}`;
    const access = (merged.get(key)?.access ?? '') + rule.access;
    merged.set(key, { ...rule, access: [...'rwm'].filter((letter) => access.includes(letter)).join('') });
  }
  return [...merged.values()];
}

/** Returns `c 1:3 rwm`: Documentation/admin-guide/cgroup-v1/devices.rst. */
function v1Line(rule: DeviceRule): string {
  const number = (value: number | 'any'): string => (value === 'any' ? '*' : String(value));
  return `${rule.type === 'char' ? 'c' : 'b'} ${number(rule.major)}:${number(rule.minor)} ${rule.access}`;
}

const r0 = 0; // result
const r1 = 1; // context, then scratch
const r2 = 2; // device type
const r3 = 3; // requested access
const r4 = 4; // major
const r5 = 5; // minor

const LDX_MEM_W = 0x61;
const AND32_K = 0x54;
const RSH32_K = 0x74;
const MOV32_X = 0xbc;
const MOV64_K = 0xb7;
const JNE_K = 0x55;
const JNE_X = 0x5d;
const EXIT = 0x95;

const typeNumber = { block: 1, char: 2 } as const;
const accessBit: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };
const allAccess = 7;

/** Returns the BPF program. The rules are checked in order. The first that matches device and access allows it; without a match it is denied. */
function deviceProgram(rules: readonly DeviceRule[]): Buffer {
  const load = [
    instruction(LDX_MEM_W, r2, r1, 0, 0),
    instruction(AND32_K, r2, 0, 0, 0xffff), // low half of access_type
    instruction(LDX_MEM_W, r3, r1, 0, 0),
    instruction(RSH32_K, r3, 0, 0, 16), // high half
    instruction(LDX_MEM_W, r4, r1, 4, 0),
    instruction(LDX_MEM_W, r5, r1, 8, 0),
  ];
  const deny = [instruction(MOV64_K, r0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)];
  return Buffer.concat([...load, ...rules.flatMap(ruleBlock), ...deny]);
}

/** Returns checks that jump past the block if they fail, followed by `return 1`. */
function ruleBlock(rule: DeviceRule): Buffer[] {
  const access = [...rule.access].reduce((bits, letter) => bits | (accessBit[letter] ?? 0), 0);
  type Step = (toEnd: number) => Buffer;
  const steps: Step[] = [(toEnd) => instruction(JNE_K, r2, 0, toEnd, typeNumber[rule.type])];
  if (access !== allAccess) {
    // The rule must allow all of the requested access: (requested & allowed) == requested.
    steps.push(
      () => instruction(MOV32_X, r1, r3, 0, 0),
      () => instruction(AND32_K, r1, 0, 0, access),
      (toEnd) => instruction(JNE_X, r1, r3, toEnd, 0),
    );
  }
  const { major, minor } = rule;
  if (major !== 'any') steps.push((toEnd) => instruction(JNE_K, r4, 0, toEnd, major));
  if (minor !== 'any') steps.push((toEnd) => instruction(JNE_K, r5, 0, toEnd, minor));
  steps.push(
    () => instruction(MOV64_K, r0, 0, 0, 1),
    () => instruction(EXIT, 0, 0, 0, 0),
  );
  return steps.map((step, index) => step(steps.length - index - 1));
}

function instruction(opcode: number, destination: number, source: number, offset: number, immediate: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt8(opcode, 0);
  bytes.writeUInt8((source << 4) | destination, 1);
  bytes.writeInt16LE(offset, 2);
  bytes.writeInt32LE(immediate | 0, 4);
  return bytes;
}
