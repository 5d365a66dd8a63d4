import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diagnose, type NodeFacts, reportOf } from './doctor.ts';

const gib = 1024 ** 3;
const space = { freeBytes: 50 * gib, totalBytes: 100 * gib, freeInodes: 900, totalInodes: 1000 };

const healthy: NodeFacts = {
  isRoot: true,
  arch: 'x64',
  kernel: '6.8.0-41-generic',
  missingSystemCalls: [],
  overlayFailure: null,
  requiresOverlay: false,
  userNamespaceFailure: null,
  cgroups: { version: 2, controllers: ['cpuset', 'cpu', 'io', 'memory', 'pids'] },
  cgroupDriver: 'systemd',
  hasBridgeFilter: true,
  libseccompFailure: null,
  appArmor: { isEnabled: true, hasParser: true },
  fuseFailure: null,
  hasDiskQuotas: false,
  hasSwap: false,
  socket: '/run/berth/berth.sock',
  kubelet: { endpoint: 'unix:///var/run/berth/berth.sock', cgroupDriver: 'systemd', failSwapOn: null },
  sysctls: {
    'net.ipv4.ip_forward': '1',
    'net.ipv6.conf.all.forwarding': '0',
    'net.bridge.bridge-nf-call-iptables': '1',
    'user.max_user_namespaces': '63000',
    'fs.inotify.max_user_instances': '8192',
  },
  network: { confDir: '/etc/cni/net.d', binDirs: ['/opt/cni/bin', '/usr/lib/cni'], failure: null },
  disks: [
    { name: 'root', path: '/var/lib/berth', space },
    { name: 'state', path: '/run/berth', space: { ...space, freeInodes: 0, totalInodes: 0 } },
  ],
  openFilesMax: 1_048_576n,
  hasKernelLog: true,
  criuFailure: null,
  clock: { nowMs: Date.UTC(2027, 3, 4), isSynchronized: true },
};

test('diagnose() reports a missing criu without a warning', () => {
  const last = (criuFailure: string | null) => diagnose({ ...healthy, criuFailure }).at(-1);
  assert.deepEqual(last(null), { check: 'checkpoints', verdict: 'ok', what: 'container checkpoints work: criu is installed' });
  assert.deepEqual(last('criu is missing'), {
    check: 'checkpoints',
    verdict: 'ok',
    what: 'container checkpoints do not work (optional): criu is missing',
  });
});

/** Returns all findings except those that are ok, as `verdict: what -> fix`. */
function problems(change: Partial<NodeFacts>): string[] {
  return diagnose({ ...healthy, ...change }).flatMap(({ verdict, what, fix }) => (verdict === 'ok' ? [] : [`${verdict}: ${what} -> ${fix}`]));
}

function onlyProblem(change: Partial<NodeFacts>): string {
  const found = problems(change);
  assert.equal(found.length, 1, found.join('\n'));
  return found[0] ?? '';
}

const sysctls = (change: Partial<NodeFacts['sysctls']>) => ({ sysctls: { ...healthy.sysctls, ...change } });

test('diagnose() finds no problem on a healthy node', () => {
  assert.deepEqual(problems({}), []);
});

test('diagnose() gives every problem a fix', () => {
  const worst = diagnose({
    ...healthy,
    isRoot: false,
    missingSystemCalls: ['clone3'],
    overlayFailure: 'no such device',
    userNamespaceFailure: 'invalid argument',
    cgroups: { failure: 'none is mounted' },
    cgroupDriver: { failure: 'no systemd' },
    hasBridgeFilter: false,
    libseccompFailure: 'no such file',
    appArmor: { isEnabled: true, hasParser: false },
    fuseFailure: 'no device',
    hasSwap: true,
    kubelet: { endpoint: 'unix:///run/containerd/containerd.sock', cgroupDriver: 'cgroupfs', failSwapOn: true },
    ...sysctls({ 'net.ipv4.ip_forward': '0', 'fs.inotify.max_user_instances': '16' }),
    network: { ...healthy.network, failure: 'no configuration' },
    disks: [{ name: 'root', path: '/x', space: null }],
    openFilesMax: 10n,
    hasKernelLog: false,
    clock: { nowMs: 0, isSynchronized: false },
  });
  assert.deepEqual(
    worst.filter(({ verdict, fix }) => verdict === 'ok' || !fix).map(({ check }) => check),
    // Missing optional features are not problems.
    ['disk-quotas', 'checkpoints'],
  );
});

test('diagnose() requires root', () => {
  assert.match(onlyProblem({ isRoot: false }), /^broken: not running as root/);
});

test('diagnose() knows the oldest supported kernel', () => {
  assert.match(onlyProblem({ kernel: '5.13.19' }), /^broken: kernel 5\.13\.19 is older than 5\.14 -> upgrade/);
  assert.match(onlyProblem({ kernel: '4.18.0-553.el8' }), /^broken/);
  for (const kernel of ['5.14.0-427.el9', '6.0.0', '10.1-rc1']) assert.deepEqual(problems({ kernel }), []);
});

test('diagnose() names missing system calls and unsupported architectures', () => {
  assert.match(onlyProblem({ missingSystemCalls: ['openat2', 'clone3'] }), /does not provide the system calls openat2, clone3 -> .*seccomp/);
  assert.match(onlyProblem({ arch: 'riscv64' }), /^broken: unsupported processor architecture riscv64/);
});

test('diagnose() distinguishes failing overlay mounts from failing user namespaces', () => {
  assert.match(
    onlyProblem({ overlayFailure: 'invalid argument', requiresOverlay: true }),
    /^broken: overlay mounts do not work on \/var\/lib\/berth: invalid argument -> .*modprobe overlay/,
  );
  assert.match(
    onlyProblem({ overlayFailure: 'invalid argument' }),
    /^warning: overlay mounts do not work on .*copying layers.* -> .*modprobe overlay/,
  );
  assert.match(onlyProblem({ userNamespaceFailure: 'no' }), /^warning: pods with hostUsers: false do not start: no -> .*Linux 6\.3/);
  const forbidden = { userNamespaceFailure: 'no space left', ...sysctls({ 'user.max_user_namespaces': '0' }) };
  assert.match(onlyProblem(forbidden), /-> sysctl -w user\.max_user_namespaces=65536$/);
});

test('diagnose() names missing cgroup controllers, and warns of cgroup v1', () => {
  assert.match(
    onlyProblem({ cgroups: { version: 2, controllers: ['cpu', 'cpuset', 'pids'] } }),
    /^broken: missing cgroup v2 controllers: memory; .* -> .*cgroup\.controllers/,
  );
  assert.match(onlyProblem({ cgroups: { version: 1, controllers: ['cpu', 'cpuset', 'memory', 'pids'] } }), /^warning: cgroup v1/);
  assert.match(onlyProblem({ cgroups: { failure: 'none' } }), /^broken: cgroups are not available: none -> mount/);
});

test('diagnose() requires IP forwarding for IPv4 or IPv6', () => {
  assert.match(onlyProblem(sysctls({ 'net.ipv4.ip_forward': '0' })), /^broken: IP forwarding is disabled.* -> sysctl -w net\.ipv4\.ip_forward=1/);
  assert.deepEqual(problems(sysctls({ 'net.ipv4.ip_forward': null, 'net.ipv6.conf.all.forwarding': '1' })), []);
});

test('diagnose() checks bridged traffic only if br_netfilter is loaded', () => {
  const bridged = sysctls({ 'net.bridge.bridge-nf-call-iptables': '0' });
  assert.match(onlyProblem(bridged), /^warning: iptables does not see bridged traffic/);
  assert.match(onlyProblem({ hasBridgeFilter: false, ...bridged }), /^warning: kernel module br_netfilter is not loaded/);
});

test('diagnose() reports the network failure and the configured directories', () => {
  const failure = 'no executable "bridge" in /opt/cni/bin';
  assert.match(
    onlyProblem({ network: { ...healthy.network, failure } }),
    /^broken: pod network: no executable "bridge".* -> .*\/etc\/cni\/net\.d.*\/opt\/cni\/bin or \/usr\/lib\/cni/,
  );
});

test('diagnose() warns of low space or inodes, and reports a full disk as broken', () => {
  const disk = (change: Partial<typeof space>) => ({ disks: [{ name: 'root', path: '/var/lib/berth', space: { ...space, ...change } }] });
  assert.match(onlyProblem(disk({ freeBytes: 9 * gib })), /^warning: root: \/var\/lib\/berth has only 9% of its space free/);
  assert.match(onlyProblem(disk({ freeInodes: 50 })), /^warning: .* only 5% of its inodes free/);
  assert.match(onlyProblem(disk({ freeBytes: 0.5 * gib })), /^broken: .* only 0% of its space/);
  assert.deepEqual(problems(disk({ freeBytes: 10 * gib })), []);
});

test('diagnose() reports a root that is too small for images as broken, even if it is empty', () => {
  const small = { freeBytes: 60 * 1024 ** 2, totalBytes: 64 * 1024 ** 2, freeInodes: 900, totalInodes: 1000 };
  assert.match(onlyProblem({ disks: [{ name: 'root', path: '/r', space: small }] }), /^broken: root: \/r has only 60 MiB free: .* -> .*larger/);
  assert.deepEqual(problems({ disks: [{ name: 'state', path: '/s', space: small }] }), []);
});

test("diagnose() compares the kubelet's configuration with berth's: socket, cgroup driver, swap", () => {
  const kubelet = (change: Partial<NodeFacts['kubelet']>) => ({ kubelet: { ...healthy.kubelet, ...change } });
  const other = onlyProblem(kubelet({ endpoint: 'unix:///run/containerd/containerd.sock' }));
  assert.match(other, /^warning: .*containerd\.sock -> .*unix:\/\/\/run\/berth\/berth\.sock/);
  assert.match(onlyProblem(kubelet({ cgroupDriver: 'cgroupfs' })), /^warning: .*cgroupfs, but berth uses systemd/);
  assert.match(onlyProblem({ hasSwap: true }), /^warning: swap is on/);
  assert.deepEqual(problems({ hasSwap: true, ...kubelet({ failSwapOn: false }) }), []);
  assert.deepEqual(problems(kubelet({ endpoint: null, cgroupDriver: null })), []);
});

test('diagnose() checks what seccomp and AppArmor profiles need', () => {
  assert.match(onlyProblem({ libseccompFailure: 'no libseccomp.so.2' }), /^broken: .*no libseccomp\.so\.2 -> .*libseccomp2/);
  assert.match(onlyProblem({ appArmor: { isEnabled: true, hasParser: false } }), /^broken: .*apparmor_parser/);
  assert.deepEqual(problems({ appArmor: { isEnabled: false, hasParser: false } }), []);
});

test('diagnose() requires a sufficient limit of open files', () => {
  assert.match(onlyProblem({ openFilesMax: 4095n }), /^broken: the limit on open files is only 4095/);
  assert.match(onlyProblem({ openFilesMax: 65_535n }), /^warning/);
  assert.deepEqual(problems({ openFilesMax: 65_536n }), []);
});

test('diagnose() warns of incomplete OOM reports', () => {
  assert.match(onlyProblem({ hasKernelLog: false }), /^warning: \/dev\/kmsg cannot be read: .* -> give berth CAP_SYSLOG/);
});

test('diagnose() distinguishes a wrong clock from one that is not synchronized', () => {
  assert.match(onlyProblem({ clock: { nowMs: 86_400_000, isSynchronized: true } }), /^broken: the clock is wrong \(1970-01-02/);
  assert.match(onlyProblem({ clock: { ...healthy.clock, isSynchronized: false } }), /^warning: the clock is not synchronized/);
  assert.deepEqual(problems({ clock: { ...healthy.clock, isSynchronized: null } }), []);
});

test('reportOf() prints a line per finding, its fix below it, and the totals', () => {
  const report = reportOf([
    { verdict: 'ok', what: 'a' },
    { verdict: 'broken', what: 'b', fix: 'fix b' },
    { verdict: 'warning', what: 'c', fix: 'fix c' },
  ]);
  assert.equal(report, 'ok       a\nbroken   b\n         fix: fix b\nwarning  c\n         fix: fix c\n\n1 ok, 1 warning, 1 broken');
});
