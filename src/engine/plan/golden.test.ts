/** Compares whole plans, as text, with the files in golden/. UPDATE_GOLDEN=1 rewrites the files; review the difference. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { CLONE, MS, S_IF } from './abi.ts';
import { resolveCapabilities } from './capabilities.ts';
import type { Credentials } from './credentials.ts';
import { describePlan } from './describe-plan.ts';
import { deviceMount, standardDevicePaths } from './devices.ts';
import { encodePlan, type Plan } from './plan.ts';
import { type ContainerPlan, planContainer } from './plan-container.ts';
import { planExec } from './plan-exec.ts';
import { planHook } from './plan-hook.ts';
import { planPodNamespaces } from './plan-namespaces.ts';
import { planReaper } from './plan-reaper.ts';
import type { ProcessPlan } from './process-setup.ts';
import { standardMounts } from './standard-mounts.ts';

const all = (1n << 41n) - 1n;
const credentials: Credentials = {
  uid: 0,
  gid: 0,
  groups: [0],
  capabilities: resolveCapabilities({ add: [], drop: [], addAmbient: [], isPrivileged: false }, all),
  noNewPrivs: false,
  seccomp: { program: Buffer.alloc(16, 6), flags: 0 },
  rlimits: [{ name: 'NOFILE', soft: 1024n, hard: 524288n }],
};
const process: ProcessPlan = {
  argv: ['app', '--flag'],
  env: [Buffer.from('PATH=/bin')],
  executables: ['/usr/bin/app', '/bin/app'],
  workingDir: '/srv/app',
  credentials,
  oomScoreAdj: 1000,
  keyringSecret: 'secret',
  cgroup: { version: 2, directory: 'cgroup' },
  stdio: ['stdin', 'stdout', 'stderr'],
};
const namespaces = [
  { reg: 'net', flag: 0x40000000, what: 'net' },
  { reg: 'uts', flag: 0x04000000, what: 'uts' },
  { reg: 'ipc', flag: 0x08000000, what: 'ipc' },
];
const files = [{ path: '/etc/hostname', reg: 'hostname' }];
const fds = ['state', 'root', 'mask', 'cgroup', 'net', 'uts', 'ipc', 'shm', 'hostname', 'stdout', 'stderr', 'stdout.read', 'stderr.read', 'logs'];
const container: ContainerPlan = {
  fds,
  process,
  namespaces,
  pid: 'new',
  hasOwnCgroupNamespace: true,
  mounts: standardMounts({ isPrivileged: false, hasReadonlyRoot: false, cgroups: { version: 2 }, shm: 'shm', files }),
  hasStandardDev: true,
  hasStandardSys: true,
  mask: 'mask',
  devices: [],
  links: [],
  maskedPaths: [
    { path: '/proc/kcore', isDirectory: false },
    { path: '/proc/acpi', isDirectory: true },
    { path: '/sys/firmware', isDirectory: true },
  ],
  readonlyPaths: ['/proc/sys'],
  hasReadonlyRoot: false,
  supervise: {
    mode: 'container',
    hasTerminal: false,
    stdout: 'stdout.read',
    stderr: 'stderr.read',
    exitDir: 'state',
    log: { dir: 'logs', name: '0.log', lineBytesMax: 16384 },
  },
};

function checkGolden(name: string, plan: Plan): void {
  encodePlan(plan);
  const path = join(import.meta.dirname, 'golden', `${name}.txt`);
  const text = `${describePlan(plan)}\n`;
  if (globalThis.process.env.UPDATE_GOLDEN === '1') writeFileSync(path, text);
  assert.equal(text, readFileSync(path, 'utf8'));
}

test('planContainer() plans an ordinary container on cgroup v2', () => checkGolden('container', planContainer(container)));

test('planContainer() plans a container with a terminal, a read-only root, volumes and a device on cgroup v1', () => {
  const cgroups = { version: 1, hierarchies: [{ name: 'cpu,cpuacct', reg: 'cpu' }], links: [{ name: 'cpu', target: 'cpu,cpuacct' }] } as const;
  const volume = {
    target: '/data/deep',
    isDirectory: true,
    source: { kind: 'inherited', reg: 'volume0' },
    attributes: 1,
    isRecursive: true,
    propagation: MS.PRIVATE,
  } as const;
  checkGolden(
    'terminal',
    planContainer({
      ...container,
      fds: [...fds, 'cpu', 'cgroup0', 'volume0'],
      process: { ...process, stdio: null, cgroup: { version: 1, procs: ['cgroup0'] }, credentials: { ...credentials, uid: 1000, noNewPrivs: true } },
      mounts: [...standardMounts({ isPrivileged: false, hasReadonlyRoot: true, cgroups, shm: 'shm', files }), volume],
      devices: [{ hostPath: '/dev/fuse', path: '/dev/fuse', type: 'char', major: 10, minor: 229, mode: 0o666, uid: 0, gid: 0 }],
      links: [{ mount: 'cgroups', name: 'cpu', target: 'cpu,cpuacct' }],
      maskedPaths: [],
      readonlyPaths: [],
      hasReadonlyRoot: true,
      supervise: { mode: 'container', hasTerminal: true, exitDir: 'state' },
    }),
  );
});

test('planExec() joins a container by its pidfd', () => {
  checkGolden('exec', planExec({ fds: ['target', 'cgroup', 'stdin', 'stdout', 'stderr'], process, target: 'target', isInUserNamespace: false }));
  const terminal = { ...process, stdio: null };
  checkGolden(
    'exec-terminal',
    planExec({ fds: ['target', 'cgroup', 'socket'], process: terminal, target: 'target', terminalSocket: 'socket', isInUserNamespace: false }),
  );
});

test('planReaper() plans pid 1 of a shared pid namespace', () => {
  checkGolden(
    'reaper',
    planReaper({ fds: ['net', 'uts', 'ipc', 'cgroup'], namespaces, cgroup: { version: 2, directory: 'cgroup' }, oomScoreAdj: -998 }),
  );
});

const mounted = [...standardDevicePaths, '/dev/fuse'].map((path, i) => deviceMount(path, `device${i}`));
const inUser: ContainerPlan = {
  ...container,
  fds: [...fds, 'user', 'sys', ...mounted.map((_, i) => `device${i}`)],
  user: 'user',
  mounts: [
    ...standardMounts({ isPrivileged: false, hasReadonlyRoot: false, cgroups: { version: 2 }, shm: 'shm', fromHost: { sys: 'sys' }, files }),
    ...mounted,
  ],
};

test('planContainer() joins a user namespace first, creates the other namespaces in it, and bind-mounts devices', () => {
  checkGolden('userns', planContainer(inUser));
});

test('planContainer() needs no privilege on the host after it has joined a user namespace', () => {
  const { child } = planContainer(inUser);
  const joined = child.findIndex((op) => op.call === 'setns' && op.namespaces === CLONE.NEWUSER);
  const calls = child.slice(joined).filter((op) => op.call === 'prlimit64' || (op.call === 'mknodat' && (op.mode & S_IF.IFCHR) !== 0));
  assert.deepEqual(calls, []);
  assert.equal(child.filter((op) => op.call === 'prlimit64').length, credentials.rlimits.length);
});

test('planExec() and planReaper() join a user namespace, and planPodNamespaces() creates the other namespaces in it', () => {
  checkGolden(
    'userns-exec',
    planExec({ fds: ['target', 'cgroup', 'stdin', 'stdout', 'stderr'], process, target: 'target', isInUserNamespace: true }),
  );
  const cgroup = { version: 2, directory: 'cgroup' } as const;
  checkGolden('userns-reaper', planReaper({ fds: ['net', 'uts', 'ipc', 'user', 'cgroup'], namespaces, user: 'user', cgroup, oomScoreAdj: -998 }));
  const sysctls = [{ name: 'net.ipv4.ip_forward', path: 'net/ipv4/ip_forward', value: '1' }];
  const kinds = ['net', 'ipc', 'uts'] as const;
  checkGolden('userns-sandbox', planPodNamespaces({ fds: ['cgroup', 'user'], cgroup, user: 'user', kinds, hostname: 'pod', sysctls }));
});

test('planContainer() with hooks runs the same operations, but enters the root after it is complete and the hooks have run', () => {
  const notesOf = (plan: Plan) => plan.child.map(({ note }) => note);
  const plain = notesOf(planContainer(container));
  const held = planContainer({ ...container, fds: [...fds, 'go'], hold: 'go' });
  const notes = notesOf(held);
  assert.deepEqual([...notes].sort(), [...plain, 'wait for hooks'].sort());
  const wait = notes.indexOf('wait for hooks');
  assert.deepEqual(notes.slice(wait + 1), [
    'change the working directory to the root file system',
    'pivot to the root file system',
    'detach the root file system of the host',
    'change the working directory to /',
    ...plain.slice(plain.indexOf('open /proc to find paths in it')),
  ]);
  assert.deepEqual(
    held.child.flatMap((op) => (op.call === 'move_mount' && op.toPath !== '' ? [op.toPath] : [])),
    ['rootfs'],
  );
  assert.throws(() => encodePlan({ ...held, parent: held.child.filter((op) => op.call === 'hold') }), /hold is only for the child/);
});

test("planHook() runs a hook with the daemon's privileges, in the namespaces of the host or the container", () => {
  const hook = { point: 'createContainer', path: '/usr/bin/vendor-hook', argv: ['vendor-hook', 'link'], env: ['DEBUG=1'], timeoutMs: 1000 } as const;
  const common = { hook, bundle: '/run/berth/containers/c1', oomScoreAdj: 1000 };
  checkGolden('hook', planHook({ ...common, fds: ['state', 'output'] }));
  const inside = { target: 'target', cgroup: { version: 2, directory: 'cgroup' }, isInUserNamespace: true } as const;
  checkGolden('userns-hook', planHook({ ...common, fds: ['output', 'target', 'cgroup', 'state'], container: inside }));
});

test('planContainer() never resolves the target of a volume outside the root', () => {
  const volume = {
    target: '/../../etc/../escape',
    isDirectory: true,
    source: { kind: 'inherited', reg: 'v' },
    attributes: 0,
    isRecursive: false,
  } as const;
  const plan = planContainer({ ...container, fds: [...fds, 'v'], mounts: [...container.mounts, volume] });
  const entered = plan.child.findIndex((op) => op.call === 'pivot_root');
  for (const [i, op] of plan.child.entries()) {
    if (op.call === 'move_mount' && i > entered) assert.equal(op.toPath, '', 'target is an fd, not a path');
    if (op.call === 'openat2') assert.ok((op.how.resolve ?? 0) & 0x18, 'resolved inside the root, or beneath a directory in it');
  }
});
