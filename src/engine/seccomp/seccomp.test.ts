import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeProfile, resolveProfile, type SeccompContext } from './seccomp.ts';
import { defaultProfile } from './seccomp-default.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';

const context: SeccompContext = { capabilities: 0n, arch: 'x64', kernel: '6.18.44-cloud-amd64' };
const SYS_ADMIN = 1n << 21n;
const ALLOW = 0x7fff0000;

function resolved(document: object, changes: Partial<SeccompContext> = {}) {
  const json = JSON.stringify({ defaultAction: 'SCMP_ACT_ERRNO', ...document });
  return resolveProfile(parseSeccompProfile(json, 'p'), { ...context, ...changes });
}

/** Returns whether a rule with these conditions applies. */
function applies(conditions: object, changes: Partial<SeccompContext> = {}): boolean {
  return resolved({ syscalls: [{ names: ['bpf'], action: 'SCMP_ACT_ALLOW', ...conditions }] }, changes).rules.length === 1;
}

test('resolveProfile() converts actions to numbers of the kernel', () => {
  const syscalls = ['KILL', 'KILL_THREAD', 'KILL_PROCESS', 'TRAP', 'ERRNO', 'TRACE', 'LOG', 'ALLOW'].map((name) => ({
    names: [name],
    action: `SCMP_ACT_${name}`,
    errnoRet: 7,
  }));
  const numbers = resolved({ syscalls }).rules.map(({ action }) => action.toString(16));
  assert.deepEqual(numbers, ['0', '0', '80000000', '30000', '50007', '7ff00007', '7ffc0000', '7fff0000']);
});

test('resolveProfile() omits rules whose action and errno are the default', () => {
  const rule = (errnoRet: number) => ({ names: ['bpf'], action: 'SCMP_ACT_ERRNO', errnoRet });
  assert.deepEqual(
    resolved({ defaultErrnoRet: 5, syscalls: [rule(5), rule(6)] }).rules.map(({ action }) => action),
    [0x50006],
  );
});

test('resolveProfile() requires all included capabilities and no excluded one', () => {
  const [admin, both] = [{ capabilities: SYS_ADMIN }, { capabilities: SYS_ADMIN | 1n }];
  const caps = ['CAP_SYS_ADMIN', 'CAP_CHOWN'];
  assert.deepEqual(
    [applies({ includes: { caps } }), applies({ includes: { caps } }, admin), applies({ includes: { caps } }, both)],
    [false, false, true],
  );
  assert.deepEqual(
    [applies({ excludes: { caps } }), applies({ excludes: { caps } }, admin), applies({ excludes: { caps } }, both)],
    [true, false, false],
  );
  assert.equal(applies({ includes: { caps: ['CAP_OF_THE_FUTURE'] } }, { capabilities: (1n << 64n) - 1n }), false);
});

test('resolveProfile() matches architectures by the names of Go', () => {
  assert.ok(applies({ includes: { arches: ['s390', 'amd64'] } }));
  assert.ok(!applies({ includes: { arches: ['arm64'] } }));
  assert.ok(applies({ includes: { arches: ['arm64'] } }, { arch: 'arm64' }));
  assert.ok(!applies({ excludes: { arches: ['amd64'] } }));
});

const kernels: [string, string, boolean][] = [
  ['4.8', '4.8.0', true],
  ['4.8', '4.7.99-generic', false],
  ['4.8', '5.1', true],
  ['6.18', '6.18-rc1', true],
  ['6.19', '6.18.44', false],
  ['4.10', '4.9.1', false],
];
for (const [minKernel, kernel, isRecent] of kernels) {
  test(`resolveProfile() treats ${kernel} as ${isRecent ? 'at least' : 'older than'} ${minKernel}`, () => {
    assert.equal(applies({ includes: { minKernel } }, { kernel }), isRecent);
    assert.equal(applies({ excludes: { minKernel } }, { kernel }), !isRecent);
  });
}

test('resolveProfile() splits a rule with two comparisons of one argument', () => {
  const arg = (index: number, value: number) => ({ index, value, op: 'SCMP_CMP_EQ' });
  const argsOf = (...args: object[]) =>
    resolved({ syscalls: [{ names: ['bpf'], action: 'SCMP_ACT_ALLOW', args }] }).rules.map((rule) => rule.args.length);
  assert.deepEqual(argsOf(arg(0, 1), arg(1, 2)), [2]);
  assert.deepEqual(argsOf(arg(0, 1), arg(0, 2), arg(1, 2)), [1, 1, 1]);
});

test('resolveProfile() lists the own architecture first and omits those of other machines', () => {
  assert.deepEqual(resolved({}).architectures, ['x86_64']);
  assert.deepEqual(resolved({ architectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_ARM'] }).architectures, ['x86_64', 'x86']);
  assert.deepEqual(resolveProfile(defaultProfile, context).architectures, ['x86_64', 'x86', 'x32']);
  assert.deepEqual(resolveProfile(defaultProfile, { ...context, arch: 'arm64' }).architectures, ['aarch64', 'arm']);
  assert.throws(() => resolved({}, { arch: 's390x' }), /unsupported architecture s390x/);
});

test('describeProfile() differs if any relevant content differs', () => {
  const syscalls = [{ names: ['bpf'], action: 'SCMP_ACT_ALLOW', args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ' }] }];
  const variants = [
    resolved({ syscalls }),
    resolved({ syscalls: [{ ...syscalls[0], names: ['ptrace'] }] }),
    resolved({ syscalls: [{ ...syscalls[0], action: 'SCMP_ACT_LOG' }] }),
    resolved({ syscalls: [{ ...syscalls[0], args: [{ index: 0, value: 2, op: 'SCMP_CMP_EQ' }] }] }),
    resolved({ syscalls: [{ ...syscalls[0], args: [{ index: 0, value: 1, op: 'SCMP_CMP_NE' }] }] }),
    resolved({ syscalls, flags: ['SECCOMP_FILTER_FLAG_LOG'] }),
    resolved({ syscalls, defaultErrnoRet: 2 }),
    resolved({ syscalls, architectures: ['SCMP_ARCH_X86'] }),
    resolved({ syscalls: [...syscalls, { names: ['mount'], action: 'SCMP_ACT_ALLOW', includes: { caps: ['CAP_SYS_ADMIN'] } }] }),
  ];
  assert.equal(new Set(variants.map(describeProfile)).size, variants.length);
  assert.equal(describeProfile(resolved({ syscalls })), describeProfile(variants[0] ?? assert.fail()));
});

/** Returns the system calls that the default profile allows with any arguments. */
function allowed(changes: Partial<SeccompContext>): Set<string> {
  const rules = resolveProfile(defaultProfile, { ...context, ...changes }).rules;
  return new Set(rules.filter(({ action, args }) => action === ALLOW && args.length === 0).flatMap(({ syscalls }) => syscalls));
}

test('defaultProfile lists each call once in its largest rule', () => {
  const names = defaultProfile.rules[0]?.names ?? [];
  assert.equal(new Set(names).size, names.length);
});

test('defaultProfile allows what programs need and no dangerous calls', () => {
  const names = allowed({});
  for (const name of ['read', 'openat', 'execve', 'futex', 'ptrace', 'fchmodat2', 'statmount', 'capset', 'landlock_restrict_self'])
    assert.ok(names.has(name), name);
  const never = [
    'io_uring_setup',
    'io_uring_enter',
    'keyctl',
    'add_key',
    'userfaultfd',
    'kexec_load',
    'swapon',
    'socket',
    'personality',
    'clone',
    'clone3',
  ];
  for (const name of [...never, 'mount', 'unshare', 'setns', 'bpf', 'chroot', 'reboot', 'syslog', 'mbind', 'open_by_handle_at'])
    assert.ok(!names.has(name), name);
});

const allowedBy: [number, string[]][] = [
  [2, ['open_by_handle_at']],
  [16, ['init_module', 'finit_module', 'delete_module']],
  [17, ['iopl', 'ioperm']],
  [18, ['chroot']],
  [19, ['kcmp', 'pidfd_getfd', 'process_madvise']],
  [20, ['acct']],
  [21, ['mount', 'umount2', 'setns', 'unshare', 'clone', 'clone3', 'bpf', 'syslog', 'move_mount', 'mount_setattr', 'sethostname']],
  [22, ['reboot']],
  [23, ['mbind', 'set_mempolicy', 'get_mempolicy']],
  [25, ['settimeofday', 'clock_settime']],
  [26, ['vhangup']],
  [34, ['syslog']],
  [38, ['perf_event_open']],
  [39, ['bpf']],
];
for (const [capability, names] of allowedBy) {
  test(`defaultProfile allows ${names.join(', ')} only with capability ${capability}`, () => {
    const [without, with_] = [allowed({}), allowed({ capabilities: 1n << BigInt(capability) })];
    for (const name of names) assert.deepEqual([name, without.has(name), with_.has(name)], [name, false, true]);
  });
}

test('defaultProfile never allows io_uring, whatever the capabilities', () => {
  assert.deepEqual(
    [...allowed({ capabilities: (1n << 41n) - 1n })].filter((name) => name.startsWith('io_uring')),
    [],
  );
});

test('defaultProfile allows tracing on kernels before 4.8 only with SYS_PTRACE', () => {
  assert.ok(!allowed({ kernel: '4.7.0' }).has('ptrace'));
  assert.ok(allowed({ kernel: '4.7.0', capabilities: 1n << 19n }).has('ptrace'));
});
