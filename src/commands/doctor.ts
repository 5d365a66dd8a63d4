/**
 * What a node's facts mean for running pods on it: findings, each with its fix. Pure.
 */

import type { KubeletSettings } from './kubelet-settings.ts';

/** What was found out about the node. A failure is null when the thing works, else the reason why it does not. */
export type NodeFacts = {
  readonly isRoot: boolean;
  readonly arch: string;
  /** As uname(2) has it. */
  readonly kernel: string;
  readonly missingSystemCalls: readonly string[];
  readonly overlayFailure: string | null;
  readonly userNamespaceFailure: string | null;
  readonly cgroups: { readonly version: 1 | 2; readonly controllers: readonly string[] } | { readonly failure: string };
  /** The one that berth will use here; a failure when the configured one cannot be had. */
  readonly cgroupDriver: 'cgroupfs' | 'systemd' | { readonly failure: string };
  readonly hasBridgeFilter: boolean;
  readonly libseccompFailure: string | null;
  readonly appArmor: { readonly isEnabled: boolean; readonly hasParser: boolean };
  /** Null unless the snapshotter is fuse-overlayfs, and works. */
  readonly fuseFailure: string | null;
  readonly hasDiskQuotas: boolean;
  readonly hasSwap: boolean;
  /** Of the daemon, as the configuration has it. */
  readonly socket: string;
  readonly kubelet: KubeletSettings;
  /** By name; null where the kernel has none of that name. */
  readonly sysctls: Readonly<Record<SysctlName, string | null>>;
  readonly network: { readonly confDir: string; readonly binDirs: readonly string[]; readonly failure: string | null };
  readonly disks: readonly Disk[];
  readonly openFilesMax: bigint;
  readonly hasKernelLog: boolean;
  /** Of criu, which only checkpoints need. */
  readonly criuFailure: string | null;
  readonly clock: { readonly nowMs: number; readonly isSynchronized: boolean | null };
};

export type Disk = {
  /** The setting. */
  readonly name: string;
  readonly path: string;
  /** Null when it cannot be told. */
  readonly space: { readonly freeBytes: number; readonly totalBytes: number; readonly freeInodes: number; readonly totalInodes: number } | null;
};

export const sysctlNames = [
  'net.ipv4.ip_forward',
  'net.ipv6.conf.all.forwarding',
  'net.bridge.bridge-nf-call-iptables',
  'user.max_user_namespaces',
  'fs.inotify.max_user_instances',
] as const;
export type SysctlName = (typeof sysctlNames)[number];

/** `broken`: pods do not run, or not as they are meant to. `warning`: some pods do not, or not for long. */
export type Finding = { readonly verdict: 'ok' | 'warning' | 'broken'; readonly what: string; readonly fix?: string };

/** `check`: a name that stays, for programs. */
export type NamedFinding = { readonly check: string } & Finding;

const kernelMin = [5, 14] as const;
const neededControllers = ['cpu', 'cpuset', 'memory', 'pids'];
/** The daemon holds some files for each container, and gives its containers limits below its own. */
const openFilesMin = 4096n;
const openFilesGood = 65_536n;
/** Less than this holds no usual image. */
const rootBytesMin = 512 * 1024 ** 2;
const inotifyInstancesMin = 128;
/** The kubelet begins to evict below a tenth, and refuses images when 15 % are left. */
const freeShareMin = 0.1;
/** Of the first release: a clock before it is wrong, and certificates do not hold. */
const clockMinMs = Date.UTC(2026, 0, 1);

const ok = (what: string): Finding => ({ verdict: 'ok', what });
const warning = (what: string, fix: string): Finding => ({ verdict: 'warning', what, fix });
const broken = (what: string, fix: string): Finding => ({ verdict: 'broken', what, fix });

type Check = (facts: NodeFacts) => Finding | readonly Finding[];

/** In an order in which it makes sense to mend what they find. */
const checks: Readonly<Record<string, Check>> = {
  root: ({ isRoot }) =>
    isRoot ? ok('running as root') : broken('not running as root', 'run berth as root: namespaces, mounts and cgroups are root’s to make'),
  kernel: kernelFinding,
  overlay: overlayFinding,
  fuse: ({ fuseFailure }) => (fuseFailure === null ? [] : broken(fuseFailure, 'apt-get install fuse-overlayfs (or its like), and modprobe fuse')),
  'user-namespaces': userNamespaceFinding,
  cgroups: cgroupFindings,
  'cgroup-driver': cgroupDriverFinding,
  forwarding: forwardingFinding,
  'bridge-filter': bridgeFilterFinding,
  network: networkFinding,
  disk: ({ disks }) => disks.flatMap(diskFinding),
  'disk-quotas': ({ hasDiskQuotas }) =>
    ok(
      hasDiskQuotas
        ? 'project quotas: what containers write can be limited'
        : 'no project quotas on root, for those who want to limit what containers write: docs/kubelet.md',
    ),
  'open-files': openFilesFinding,
  inotify: inotifyFinding,
  seccomp: ({ libseccompFailure }) =>
    libseccompFailure === null
      ? ok('seccomp profiles can be compiled')
      : broken(`no pod with a seccomp profile starts: ${libseccompFailure}`, 'apt-get install libseccomp2 (dnf install libseccomp)'),
  apparmor: appArmorFinding,
  swap: swapFinding,
  kubelet: kubeletFinding,
  'kernel-log': ({ hasKernelLog }) =>
    hasKernelLog
      ? ok('the kernel log can be read: OOM kills are told with their process')
      : warning('/dev/kmsg cannot be read: OOM kills are told without their process and whose limit it was', 'give berth CAP_SYSLOG, and /dev/kmsg'),
  clock: clockFinding,
  checkpoints: ({ criuFailure }) =>
    ok(criuFailure === null ? 'checkpoints of containers: criu works' : `no checkpoints of containers, for those who want them: ${criuFailure}`),
};

/** What every check found; some find nothing. */
export function diagnose(facts: NodeFacts): readonly NamedFinding[] {
  return Object.entries(checks).flatMap(([name, check]) => [check(facts)].flat().map((finding) => ({ check: name, ...finding })));
}

/** A line per finding, its fix below it, and a sum. */
export function reportOf(findings: readonly Finding[]): string {
  const count = (verdict: Finding['verdict']) => findings.filter((finding) => finding.verdict === verdict).length;
  const lines = findings.map(({ verdict, what, fix }) => `${verdict.padEnd(7)}  ${what}${fix === undefined ? '' : `\n         fix: ${fix}`}`);
  return [...lines, '', `${count('ok')} ok, ${count('warning')} warnings, ${count('broken')} broken`].join('\n');
}

function kernelFinding({ kernel, arch, missingSystemCalls }: NodeFacts): Finding {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const wanted = kernelMin.join('.');
  if (!['x64', 'arm64'].includes(arch)) return broken(`processor architecture ${arch}`, 'berth runs on x86-64 and arm64');
  if (major < kernelMin[0] || (major === kernelMin[0] && minor < kernelMin[1])) {
    return broken(`kernel ${kernel} is older than ${wanted}`, `upgrade to Linux ${wanted} or newer`);
  }
  if (missingSystemCalls.length === 0) return ok(`kernel ${kernel}, with all system calls that are needed`);
  const calls = missingSystemCalls.join(', ');
  return broken(
    `kernel ${kernel} does not answer ${calls}`,
    'if berth runs in a container, allow these calls in its seccomp profile; else use a stock kernel',
  );
}

function overlayFinding({ overlayFailure, disks }: NodeFacts): Finding {
  const root = disks.find(({ name }) => name === 'root')?.path ?? '';
  if (overlayFailure === null) return ok(`overlay mounts work on ${root}`);
  return broken(
    `overlay mounts do not work on ${root}: ${overlayFailure}`,
    'load the module (modprobe overlay), or set root to a directory on ext4, xfs or btrfs',
  );
}

function userNamespaceFinding({ userNamespaceFailure, sysctls }: NodeFacts): Finding {
  if (userNamespaceFailure === null) return ok('pods can have user namespaces: id-mapped mounts work');
  const what = `pods with hostUsers: false do not run: ${userNamespaceFailure}`;
  if (sysctls['user.max_user_namespaces'] === '0') return warning(what, 'sysctl -w user.max_user_namespaces=65536');
  return warning(what, 'these pods need Linux 6.3 or newer, and a file system below root that takes id-mapped mounts (ext4, xfs, btrfs)');
}

function cgroupFindings({ cgroups }: NodeFacts): Finding[] {
  if ('failure' in cgroups) return [broken(`no cgroups: ${cgroups.failure}`, 'mount -t cgroup2 cgroup2 /sys/fs/cgroup')];
  const { version, controllers } = cgroups;
  const missing = neededControllers.filter((name) => !controllers.includes(name));
  const where = version === 2 ? '/sys/fs/cgroup/cgroup.controllers' : '/proc/cgroups';
  const found =
    missing.length === 0
      ? ok(`cgroup v${version} with ${neededControllers.join(', ')}`)
      : broken(
          `cgroup v${version} without ${missing.join(', ')}`,
          `limits of these kinds do nothing: see ${where}, and cgroup_disable= or cgroup_enable= on the kernel's command line`,
        );
  const old = warning('cgroup v1: kernel and kubelet are giving it up', 'boot with systemd.unified_cgroup_hierarchy=1');
  return version === 1 ? [found, old] : [found];
}

function forwardingFinding({ sysctls }: NodeFacts): Finding {
  const isOn = (name: SysctlName) => sysctls[name] === '1';
  const forwards = isOn('net.ipv4.ip_forward') || isOn('net.ipv6.conf.all.forwarding');
  return forwards
    ? ok('the node forwards packets of pods')
    : broken(
        'the node does not forward packets: net.ipv4.ip_forward is 0',
        'sysctl -w net.ipv4.ip_forward=1, and the same line in /etc/sysctl.d/99-kubernetes.conf',
      );
}

function bridgeFilterFinding({ sysctls, hasBridgeFilter }: NodeFacts): Finding {
  if (!hasBridgeFilter) {
    return warning(
      'module br_netfilter is not loaded: services may not answer pods on the same bridge',
      'modprobe br_netfilter, and its name in /etc/modules-load.d/kubernetes.conf; not needed where the network plugin uses no bridge',
    );
  }
  if (sysctls['net.bridge.bridge-nf-call-iptables'] === '1') return ok('bridged packets pass iptables');
  return warning('bridged packets do not pass iptables', 'sysctl -w net.bridge.bridge-nf-call-iptables=1');
}

function cgroupDriverFinding({ cgroupDriver, kubelet }: NodeFacts): Finding {
  if (typeof cgroupDriver !== 'string') return broken(cgroupDriver.failure, 'set cgroup_driver to auto');
  const { cgroupDriver: told } = kubelet;
  if (told === null || told === cgroupDriver) return ok(`cgroup driver ${cgroupDriver}`);
  return warning(
    `the kubelet is set to the cgroup driver ${told}, and berth uses ${cgroupDriver}: a kubelet before 1.34 does not ask`,
    `set cgroupDriver: ${cgroupDriver} in the kubelet's configuration, or cgroup_driver = "${told}" in berth's`,
  );
}

function appArmorFinding({ appArmor }: NodeFacts): Finding {
  if (!appArmor.isEnabled) return ok('no AppArmor in this kernel: profiles of pods are refused');
  if (appArmor.hasParser) return ok('AppArmor, and its parser');
  return broken('the kernel has AppArmor, but there is no apparmor_parser: berth cannot load its default profile', 'apt-get install apparmor');
}

function swapFinding({ hasSwap, kubelet }: NodeFacts): Finding {
  if (!hasSwap) return ok('no swap');
  if (kubelet.failSwapOn === false) return ok('swap, and the kubelet is told to live with it');
  return warning(
    'swap is on: by default the kubelet does not start then',
    "swapoff -a and its line out of /etc/fstab; or failSwapOn: false in the kubelet's configuration",
  );
}

function kubeletFinding({ kubelet, socket }: NodeFacts): Finding {
  const { endpoint } = kubelet;
  if (endpoint === null) return ok(`no kubelet here is told of a runtime: its flag is --container-runtime-endpoint=unix://${socket}`);
  // /run is /var/run, on every node of these years.
  const place = (path: string) => path.replace(/^unix:\/\//, '').replace(/^\/var\/run\//, '/run/');
  if (place(endpoint) === place(socket)) return ok(`the kubelet is told of ${endpoint}`);
  return warning(
    `the kubelet is told of another runtime: ${endpoint}`,
    `set containerRuntimeEndpoint: unix://${socket} in the kubelet's configuration (kubeadm: /var/lib/kubelet/kubeadm-flags.env), and restart it`,
  );
}

function networkFinding({ network }: NodeFacts): Finding {
  if (network.failure === null) return ok(`pod network: a valid configuration in ${network.confDir}, and all its plugins`);
  return broken(
    `pod network: ${network.failure}`,
    `install a network (its DaemonSet writes ${network.confDir}), or put a .conflist there and its plugins into ${network.binDirs.join(' or ')}`,
  );
}

function diskFinding({ name, path, space }: Disk): Finding {
  if (space === null) return broken(`${name}: ${path} cannot be looked at`, `make it a directory, or set ${name} to one`);
  if (name === 'root' && space.freeBytes < rootBytesMin) {
    const mib = Math.floor(space.freeBytes / 1024 ** 2);
    return broken(`root: ${path} has only ${mib} MiB free: images do not fit`, fixOfDisk(name));
  }
  const share = (free: number, total: number) => (total === 0 ? 1 : free / total);
  const bytes = share(space.freeBytes, space.totalBytes);
  const inodes = share(space.freeInodes, space.totalInodes);
  const percent = (value: number) => `${Math.floor(value * 100)} %`;
  if (bytes >= freeShareMin && inodes >= freeShareMin)
    return ok(`${name}: ${path} has ${percent(bytes)} of its space and ${percent(inodes)} of its inodes free`);
  const what = bytes < inodes ? `${percent(bytes)} of its space` : `${percent(inodes)} of its inodes`;
  const finding = Math.min(bytes, inodes) < 0.01 ? broken : warning;
  return finding(`${name}: ${path} has only ${what} free`, fixOfDisk(name));
}

const fixOfDisk = (name: string) => `remove unused images (crictl rmi --prune) and logs, or set ${name} to a larger file system`;

function openFilesFinding({ openFilesMax }: NodeFacts): Finding {
  if (openFilesMax >= openFilesGood) return ok(`up to ${openFilesMax} open files`);
  const finding = openFilesMax < openFilesMin ? broken : warning;
  const fix = `LimitNOFILE=1048576 in the unit that starts berth, or ulimit -n of at least ${openFilesGood}`;
  return finding(`only ${openFilesMax} open files are allowed`, fix);
}

function inotifyFinding({ sysctls }: NodeFacts): Finding {
  const instances = Number(sysctls['fs.inotify.max_user_instances'] ?? inotifyInstancesMin);
  if (instances >= inotifyInstancesMin) return ok(`up to ${instances} inotify instances`);
  return warning(
    `only ${instances} inotify instances: programs that watch files fail, the kubelet among them`,
    'sysctl -w fs.inotify.max_user_instances=8192',
  );
}

function clockFinding({ clock }: NodeFacts): Finding {
  const time = new Date(clock.nowMs).toISOString();
  if (clock.nowMs < clockMinMs)
    return broken(`the clock says ${time}: certificates do not hold`, 'set the clock, and start chrony or systemd-timesyncd');
  if (clock.isSynchronized === false) return warning(`nobody keeps the clock right (it says ${time})`, 'start chrony or systemd-timesyncd');
  return ok(`the clock says ${time}`);
}
