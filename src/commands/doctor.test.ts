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

test('criu is nothing to complain of, and its lack is told', () => {
  const last = (criuFailure: string | null) => diagnose({ ...healthy, criuFailure }).at(-1);
  assert.deepEqual(last(null), { check: 'checkpoints', verdict: 'ok', what: 'checkpoints of containers: criu works' });
  assert.deepEqual(last('it is away'), {
    check: 'checkpoints',
    verdict: 'ok',
    what: 'no checkpoints of containers, for those who want them: it is away',
  });
});

/** What is not well, as `verdict: what -> fix`. */
function complaints(change: Partial<NodeFacts>): string[] {
  return diagnose({ ...healthy, ...change }).flatMap(({ verdict, what, fix }) => (verdict === 'ok' ? [] : [`${verdict}: ${what} -> ${fix}`]));
}

function onlyComplaint(change: Partial<NodeFacts>): string {
  const found = complaints(change);
  assert.equal(found.length, 1, found.join('\n'));
  return found[0] ?? '';
}

const sysctls = (change: Partial<NodeFacts['sysctls']>) => ({ sysctls: { ...healthy.sysctls, ...change } });

test('diagnose() finds nothing on a node that has it all', () => {
  assert.deepEqual(complaints({}), []);
});

test('diagnose() gives every complaint a fix', () => {
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
    // What nobody needs is no complaint.
    ['disk-quotas', 'checkpoints'],
  );
});

test('diagnose() asks for root', () => {
  assert.match(onlyComplaint({ isRoot: false }), /^broken: not running as root/);
});

test('diagnose() knows the oldest kernel that will do', () => {
  assert.match(onlyComplaint({ kernel: '5.13.19' }), /^broken: kernel 5\.13\.19 is older than 5\.14 -> upgrade/);
  assert.match(onlyComplaint({ kernel: '4.18.0-553.el8' }), /^broken/);
  for (const kernel of ['5.14.0-427.el9', '6.0.0', '10.1-rc1']) assert.deepEqual(complaints({ kernel }), []);
});

test('diagnose() names the system calls that are refused, and architectures that are not built for', () => {
  assert.match(onlyComplaint({ missingSystemCalls: ['openat2', 'clone3'] }), /does not answer openat2, clone3 -> .*seccomp/);
  assert.match(onlyComplaint({ arch: 'riscv64' }), /^broken: processor architecture riscv64/);
});

test('diagnose() tells overlay that does not work from user namespaces that do not', () => {
  assert.match(
    onlyComplaint({ overlayFailure: 'invalid argument' }),
    /^broken: overlay mounts do not work on \/var\/lib\/berth: invalid argument -> .*modprobe overlay/,
  );
  assert.match(onlyComplaint({ userNamespaceFailure: 'no' }), /^warning: pods with hostUsers: false do not run: no -> .*Linux 6\.3/);
  const forbidden = { userNamespaceFailure: 'no space left', ...sysctls({ 'user.max_user_namespaces': '0' }) };
  assert.match(onlyComplaint(forbidden), /-> sysctl -w user\.max_user_namespaces=65536$/);
});

test('diagnose() names the cgroup controllers that are missing, and that v1 is old', () => {
  assert.match(
    onlyComplaint({ cgroups: { version: 2, controllers: ['cpu', 'cpuset', 'pids'] } }),
    /^broken: cgroup v2 without memory -> .*cgroup\.controllers/,
  );
  assert.match(onlyComplaint({ cgroups: { version: 1, controllers: ['cpu', 'cpuset', 'memory', 'pids'] } }), /^warning: cgroup v1/);
  assert.match(onlyComplaint({ cgroups: { failure: 'none' } }), /^broken: no cgroups: none -> mount/);
});

test('diagnose() wants packets forwarded, of either family', () => {
  assert.match(onlyComplaint(sysctls({ 'net.ipv4.ip_forward': '0' })), /^broken: .*ip_forward is 0 -> sysctl -w net\.ipv4\.ip_forward=1/);
  assert.deepEqual(complaints(sysctls({ 'net.ipv4.ip_forward': null, 'net.ipv6.conf.all.forwarding': '1' })), []);
});

test('diagnose() looks at bridged packets only where the kernel can filter them', () => {
  const bridged = sysctls({ 'net.bridge.bridge-nf-call-iptables': '0' });
  assert.match(onlyComplaint(bridged), /^warning: bridged packets do not pass iptables/);
  assert.match(onlyComplaint({ hasBridgeFilter: false, ...bridged }), /^warning: module br_netfilter is not loaded/);
});

test('diagnose() says what is wrong with the network, and where it is looked for', () => {
  const failure = 'no executable "bridge" in /opt/cni/bin';
  assert.match(
    onlyComplaint({ network: { ...healthy.network, failure } }),
    /^broken: pod network: no executable "bridge".* -> .*\/etc\/cni\/net\.d.*\/opt\/cni\/bin or \/usr\/lib\/cni/,
  );
});

test('diagnose() warns of disks that fill, by space or by inodes, and calls full ones broken', () => {
  const disk = (change: Partial<typeof space>) => ({ disks: [{ name: 'root', path: '/var/lib/berth', space: { ...space, ...change } }] });
  assert.match(onlyComplaint(disk({ freeBytes: 9 * gib })), /^warning: root: \/var\/lib\/berth has only 9 % of its space free/);
  assert.match(onlyComplaint(disk({ freeInodes: 50 })), /^warning: .* only 5 % of its inodes free/);
  assert.match(onlyComplaint(disk({ freeBytes: 0.5 * gib })), /^broken: .* only 0 % of its space/);
  assert.deepEqual(complaints(disk({ freeBytes: 10 * gib })), []);
});

test('diagnose() calls a root broken in which no image has room, however empty it is', () => {
  const small = { freeBytes: 60 * 1024 ** 2, totalBytes: 64 * 1024 ** 2, freeInodes: 900, totalInodes: 1000 };
  assert.match(onlyComplaint({ disks: [{ name: 'root', path: '/r', space: small }] }), /^broken: root: \/r has only 60 MiB free: .* -> .*larger/);
  assert.deepEqual(complaints({ disks: [{ name: 'state', path: '/s', space: small }] }), []);
});

test('diagnose() holds the kubelet against berth: socket, cgroup driver, swap', () => {
  const kubelet = (change: Partial<NodeFacts['kubelet']>) => ({ kubelet: { ...healthy.kubelet, ...change } });
  const other = onlyComplaint(kubelet({ endpoint: 'unix:///run/containerd/containerd.sock' }));
  assert.match(other, /^warning: .*containerd\.sock -> .*unix:\/\/\/run\/berth\/berth\.sock/);
  assert.match(onlyComplaint(kubelet({ cgroupDriver: 'cgroupfs' })), /^warning: .*cgroupfs, and berth uses systemd/);
  assert.match(onlyComplaint({ hasSwap: true }), /^warning: swap is on/);
  assert.deepEqual(complaints({ hasSwap: true, ...kubelet({ failSwapOn: false }) }), []);
  assert.deepEqual(complaints(kubelet({ endpoint: null, cgroupDriver: null })), []);
});

test('diagnose() looks for what profiles of pods need', () => {
  assert.match(onlyComplaint({ libseccompFailure: 'no libseccomp.so.2' }), /^broken: .*no libseccomp\.so\.2 -> .*libseccomp2/);
  assert.match(onlyComplaint({ appArmor: { isEnabled: true, hasParser: false } }), /^broken: .*apparmor_parser/);
  assert.deepEqual(complaints({ appArmor: { isEnabled: false, hasParser: false } }), []);
});

test('diagnose() wants open files for many containers', () => {
  assert.match(onlyComplaint({ openFilesMax: 4095n }), /^broken: only 4095 open files/);
  assert.match(onlyComplaint({ openFilesMax: 65_535n }), /^warning/);
  assert.deepEqual(complaints({ openFilesMax: 65_536n }), []);
});

test('diagnose() warns of OOM reports that will say little', () => {
  assert.match(onlyComplaint({ hasKernelLog: false }), /^warning: \/dev\/kmsg cannot be read: .* -> give berth CAP_SYSLOG/);
});

test('diagnose() tells a clock that is wrong from one that nobody keeps', () => {
  assert.match(onlyComplaint({ clock: { nowMs: 86_400_000, isSynchronized: true } }), /^broken: the clock says 1970-01-02/);
  assert.match(onlyComplaint({ clock: { ...healthy.clock, isSynchronized: false } }), /^warning: nobody keeps the clock right/);
  assert.deepEqual(complaints({ clock: { ...healthy.clock, isSynchronized: null } }), []);
});

test('reportOf() has a line per finding, fixes below, and the sums', () => {
  const report = reportOf([
    { verdict: 'ok', what: 'a' },
    { verdict: 'broken', what: 'b', fix: 'mend b' },
    { verdict: 'warning', what: 'c', fix: 'mend c' },
  ]);
  assert.equal(report, 'ok       a\nbroken   b\n         fix: mend b\nwarning  c\n         fix: mend c\n\n1 ok, 1 warnings, 1 broken');
});
