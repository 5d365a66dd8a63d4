/**
 * `berth doctor`: turns facts about a node into findings, each with its fix. Pure.
 */

import type { KubeletSettings } from './kubelet-settings.ts';

/** Facts about the node. A failure is null if the feature works, otherwise the reason. */
export type NodeFacts = {
  readonly isRoot: boolean;
  readonly arch: string;
  /** The release as in uname(2). */
  readonly kernel: string;
  readonly missingSystemCalls: readonly string[];
  readonly overlayFailure: string | null;
  /** The configured snapshotter is overlay, which has no fallback. */
  readonly requiresOverlay: boolean;
  readonly userNamespaceFailure: string | null;
  readonly cgroups: { readonly version: 1 | 2; readonly controllers: readonly string[] } | { readonly failure: string };
  /** The driver that berth will use; a failure if the configured one is not available. */
  readonly cgroupDriver: 'cgroupfs' | 'systemd' | { readonly failure: string };
  readonly hasBridgeFilter: boolean;
  readonly libseccompFailure: string | null;
  readonly appArmor: { readonly isEnabled: boolean; readonly hasParser: boolean };
  /** Null if fuse-overlayfs works or is not the configured snapshotter. */
  readonly fuseFailure: string | null;
  readonly hasDiskQuotas: boolean;
  readonly hasSwap: boolean;
  /** The daemon's socket, from the configuration. */
  readonly socket: string;
  readonly kubelet: KubeletSettings;
  /** Values by name; null if the kernel does not have the sysctl. */
  readonly sysctls: Readonly<Record<SysctlName, string | null>>;
  readonly network: { readonly confDir: string; readonly binDirs: readonly string[]; readonly failure: string | null };
  readonly disks: readonly Disk[];
  readonly openFilesMax: bigint;
  readonly hasKernelLog: boolean;
  /** Only checkpoints need criu. */
  readonly criuFailure: string | null;
  readonly clock: { readonly nowMs: number; readonly isSynchronized: boolean | null };
};

export type Disk = {
  /** Name of the setting. */
  readonly name: string;
  readonly path: string;
  /** Null if it cannot be read. */
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

/** `broken`: pods do not run, or not correctly. `warning`: some pods do not run, or the node will fail soon. */
export type Finding = { readonly verdict: 'ok' | 'warning' | 'broken'; readonly what: string; readonly fix?: string };

/** `check`: a stable name, for programs. */
export type NamedFinding = { readonly check: string } & Finding;

const kernelMin = [5, 14] as const;
const requiredControllers = ['cpu', 'cpuset', 'memory', 'pids'];
/** The daemon keeps several files open for each container, and containers cannot get a higher limit than the daemon's. */
const openFilesMin = 4096n;
const openFilesGood = 65_536n;
/** Typical images do not fit into less. */
const rootBytesMin = 512 * 1024 ** 2;
const inotifyInstancesMin = 128;
/** The kubelet evicts pods below 10% free space, and collects images below 15%. */
const freeShareMin = 0.1;
/** Date of the first release: an earlier time is wrong, and certificates are not valid yet. */
const clockMinMs = Date.UTC(2026, 0, 1);

const ok = (what: string): Finding => ({ verdict: 'ok', what });
const warning = (what: string, fix: string): Finding => ({ verdict: 'warning', what, fix });
const broken = (what: string, fix: string): Finding => ({ verdict: 'broken', what, fix });

type Check = (facts: NodeFacts) => Finding | readonly Finding[];

/** In the order in which problems should be fixed. */
const checks: Readonly<Record<string, Check>> = {
  root: ({ isRoot }) =>
    isRoot ? ok('running as root') : broken('not running as root', 'run berth as root, which it needs to create namespaces, mounts and cgroups'),
  kernel: kernelFinding,
  overlay: overlayFinding,
  fuse: ({ fuseFailure }) =>
    fuseFailure === null
      ? []
      : broken(fuseFailure, 'install fuse-overlayfs (apt-get install fuse-overlayfs, or dnf install fuse-overlayfs) and run modprobe fuse'),
  'user-namespaces': userNamespaceFinding,
  cgroups: cgroupFindings,
  'cgroup-driver': cgroupDriverFinding,
  forwarding: forwardingFinding,
  'bridge-filter': bridgeFilterFinding,
  network: networkFinding,
  disk: ({ disks }) => disks.flatMap(diskFinding),
  'disk-quotas': ({ hasDiskQuotas, disks }) =>
    ok(
      hasDiskQuotas
        ? `project quotas are enabled for ${rootOf(disks)}: disk limits of containers work`
        : `project quotas are not enabled for ${rootOf(disks)}: disk limits of containers do not work (optional; see docs/kubelet.md)`,
    ),
  'open-files': openFilesFinding,
  inotify: inotifyFinding,
  seccomp: ({ libseccompFailure }) =>
    libseccompFailure === null
      ? ok('seccomp profiles can be compiled')
      : broken(
          `pods with a seccomp profile do not start: ${libseccompFailure}`,
          'install libseccomp (apt-get install libseccomp2, or dnf install libseccomp)',
        ),
  apparmor: appArmorFinding,
  swap: swapFinding,
  kubelet: kubeletFinding,
  'kernel-log': ({ hasKernelLog }) =>
    hasKernelLog
      ? ok('/dev/kmsg is readable: OOM reports name the killed process')
      : warning(
          '/dev/kmsg cannot be read: OOM reports do not name the killed process and the limit that was reached',
          'give berth CAP_SYSLOG and access to /dev/kmsg',
        ),
  clock: clockFinding,
  checkpoints: ({ criuFailure }) =>
    ok(criuFailure === null ? 'container checkpoints work: criu is installed' : `container checkpoints do not work (optional): ${criuFailure}`),
};

/** Runs all checks. A check may have no finding. */
export function diagnose(facts: NodeFacts): readonly NamedFinding[] {
  return Object.entries(checks).flatMap(([name, check]) => [check(facts)].flat().map((finding) => ({ check: name, ...finding })));
}

/** Returns a line for each finding, with its fix below it, and the totals. */
export function reportOf(findings: readonly Finding[]): string {
  const count = (verdict: Finding['verdict']) => findings.filter((finding) => finding.verdict === verdict).length;
  const lines = findings.map(({ verdict, what, fix }) => `${verdict.padEnd(7)}  ${what}${fix === undefined ? '' : `\n         fix: ${fix}`}`);
  const warnings = count('warning');
  return [...lines, '', `${count('ok')} ok, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}, ${count('broken')} broken`].join('\n');
}

function kernelFinding({ kernel, arch, missingSystemCalls }: NodeFacts): Finding {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const oldest = kernelMin.join('.');
  if (!['x64', 'arm64'].includes(arch)) return broken(`unsupported processor architecture ${arch}`, 'use a node with x86-64 or arm64');
  if (major < kernelMin[0] || (major === kernelMin[0] && minor < kernelMin[1])) {
    return broken(`kernel ${kernel} is older than ${oldest}`, `upgrade to Linux ${oldest} or newer`);
  }
  if (missingSystemCalls.length === 0) return ok(`kernel ${kernel} has all required system calls`);
  const calls = missingSystemCalls.join(', ');
  return broken(
    `kernel ${kernel} does not provide the system calls ${calls}`,
    'if berth runs in a container, allow these calls in its seccomp profile; otherwise use a stock kernel',
  );
}

function overlayFinding({ overlayFailure, requiresOverlay, disks }: NodeFacts): Finding {
  const root = rootOf(disks);
  if (overlayFailure === null) return ok(`overlay mounts work on ${root}`);
  const what = `overlay mounts do not work on ${root}: ${overlayFailure}`;
  const fix = 'load the overlay module (modprobe overlay), or set root to a directory on ext4, xfs or btrfs';
  return requiresOverlay ? broken(what, fix) : warning(`${what}; snapshotter auto falls back to copying layers, which is slow`, fix);
}

function rootOf(disks: readonly Disk[]): string {
  return disks.find(({ name }) => name === 'root')?.path ?? '';
}

function userNamespaceFinding({ userNamespaceFailure, sysctls }: NodeFacts): Finding {
  if (userNamespaceFailure === null) return ok('pods with hostUsers: false can run: user namespaces and ID-mapped mounts work');
  const what = `pods with hostUsers: false do not start: ${userNamespaceFailure}`;
  if (sysctls['user.max_user_namespaces'] === '0') return warning(what, 'sysctl -w user.max_user_namespaces=65536');
  return warning(what, 'use Linux 6.3 or newer, and set root to a directory on a file system that supports ID-mapped mounts (ext4, xfs or btrfs)');
}

function cgroupFindings({ cgroups }: NodeFacts): Finding[] {
  if ('failure' in cgroups) return [broken(`cgroups are not available: ${cgroups.failure}`, 'mount -t cgroup2 cgroup2 /sys/fs/cgroup')];
  const { version, controllers } = cgroups;
  const missing = requiredControllers.filter((name) => !controllers.includes(name));
  const where = version === 2 ? '/sys/fs/cgroup/cgroup.controllers' : '/proc/cgroups';
  const found =
    missing.length === 0
      ? ok(`cgroup v${version} has the controllers ${requiredControllers.join(', ')}`)
      : broken(
          `missing cgroup v${version} controllers: ${missing.join(', ')}; their limits cannot be enforced`,
          `enable them on the kernel command line: remove them from cgroup_disable=, or add them to cgroup_enable=; ${where} lists the enabled ones`,
        );
  const old = warning('cgroup v1 is deprecated in Linux and Kubernetes', 'boot with systemd.unified_cgroup_hierarchy=1 to use cgroup v2');
  return version === 1 ? [found, old] : [found];
}

function forwardingFinding({ sysctls }: NodeFacts): Finding {
  const isOn = (name: SysctlName) => sysctls[name] === '1';
  const isForwarding = isOn('net.ipv4.ip_forward') || isOn('net.ipv6.conf.all.forwarding');
  return isForwarding
    ? ok('IP forwarding is enabled')
    : broken(
        'IP forwarding is disabled: pods cannot reach other nodes',
        'sysctl -w net.ipv4.ip_forward=1, and add net.ipv4.ip_forward=1 to /etc/sysctl.d/99-kubernetes.conf',
      );
}

function bridgeFilterFinding({ sysctls, hasBridgeFilter }: NodeFacts): Finding {
  if (!hasBridgeFilter) {
    return warning(
      'kernel module br_netfilter is not loaded: pods may not reach Services whose pods are on the same bridge',
      'modprobe br_netfilter, and add it to /etc/modules-load.d/kubernetes.conf (not needed if the network add-on does not use a bridge)',
    );
  }
  if (sysctls['net.bridge.bridge-nf-call-iptables'] === '1') return ok('iptables sees bridged traffic');
  return warning(
    'iptables does not see bridged traffic: pods may not reach Services whose pods are on the same bridge',
    'sysctl -w net.bridge.bridge-nf-call-iptables=1',
  );
}

function cgroupDriverFinding({ cgroupDriver, kubelet }: NodeFacts): Finding {
  if (typeof cgroupDriver !== 'string') return broken(cgroupDriver.failure, 'set cgroup_driver to auto');
  const { cgroupDriver: configured } = kubelet;
  if (configured === null || configured === cgroupDriver) return ok(`cgroup driver ${cgroupDriver}`);
  return warning(
    `the kubelet is configured with the cgroup driver ${configured}, but berth uses ${cgroupDriver}: a kubelet older than 1.31 does not detect berth's driver`,
    `set cgroupDriver: ${cgroupDriver} in the kubelet's configuration, or cgroup_driver = "${configured}" in berth's`,
  );
}

function appArmorFinding({ appArmor }: NodeFacts): Finding {
  if (!appArmor.isEnabled) return ok('AppArmor is not enabled: pods that request a profile do not start');
  if (appArmor.hasParser) return ok('AppArmor is enabled, and apparmor_parser is installed');
  return broken('AppArmor is enabled, but apparmor_parser is not installed: berth cannot load its default profile', 'apt-get install apparmor');
}

function swapFinding({ hasSwap, kubelet }: NodeFacts): Finding {
  if (!hasSwap) return ok('no swap');
  if (kubelet.failSwapOn === false) return ok('swap is on, and the kubelet accepts it (failSwapOn: false)');
  return warning(
    'swap is on: by default, the kubelet does not start',
    "swapoff -a, and remove swap from /etc/fstab; or set failSwapOn: false in the kubelet's configuration",
  );
}

function kubeletFinding({ kubelet, socket }: NodeFacts): Finding {
  const { endpoint } = kubelet;
  if (endpoint === null)
    return ok(`no kubelet on this node is configured with a runtime; to use berth, set containerRuntimeEndpoint: unix://${socket}`);
  // /var/run is a link to /run on all current distributions.
  const pathOf = (address: string) => address.replace(/^unix:\/\//, '').replace(/^\/var\/run\//, '/run/');
  if (pathOf(endpoint) === pathOf(socket)) return ok(`the kubelet uses ${endpoint}`);
  return warning(
    `the kubelet uses another runtime: ${endpoint}`,
    `set containerRuntimeEndpoint: unix://${socket} in the kubelet's configuration (kubeadm: kubeadm-flags.env, or config.yaml and instance-config.yaml, in /var/lib/kubelet), and restart it`,
  );
}

function networkFinding({ network }: NodeFacts): Finding {
  if (network.failure === null) return ok(`pod network: the configuration in ${network.confDir} is valid, and its plugins are ready`);
  return broken(
    `pod network: ${network.failure}`,
    `install a network add-on, or put a .conflist into ${network.confDir} and its plugins into ${network.binDirs.join(' or ')}`,
  );
}

function diskFinding({ name, path, space }: Disk): Finding {
  if (space === null) return broken(`${name}: ${path} cannot be read`, `create the directory, or set ${name} to an existing one`);
  if (name === 'root' && space.freeBytes < rootBytesMin) {
    const mib = Math.floor(space.freeBytes / 1024 ** 2);
    return broken(`root: ${path} has only ${mib} MiB free: images do not fit`, fixOfDisk(name));
  }
  const share = (free: number, total: number) => (total === 0 ? 1 : free / total);
  const bytes = share(space.freeBytes, space.totalBytes);
  const inodes = share(space.freeInodes, space.totalInodes);
  const percent = (value: number) => `${Math.floor(value * 100)}%`;
  if (bytes >= freeShareMin && inodes >= freeShareMin)
    return ok(`${name}: ${path} has ${percent(bytes)} of its space and ${percent(inodes)} of its inodes free`);
  const what = bytes < inodes ? `${percent(bytes)} of its space` : `${percent(inodes)} of its inodes`;
  const finding = Math.min(bytes, inodes) < 0.01 ? broken : warning;
  return finding(`${name}: ${path} has only ${what} free`, fixOfDisk(name));
}

const fixOfDisk = (name: string) => `remove unused images (crictl rmi --prune) and logs, or move ${name} to a larger file system`;

function openFilesFinding({ openFilesMax }: NodeFacts): Finding {
  if (openFilesMax >= openFilesGood) return ok(`the limit on open files is ${openFilesMax}`);
  const finding = openFilesMax < openFilesMin ? broken : warning;
  const fix = `set LimitNOFILE=1048576 in the systemd unit of berth, or raise ulimit -n to at least ${openFilesGood}`;
  return finding(`the limit on open files is only ${openFilesMax}`, fix);
}

function inotifyFinding({ sysctls }: NodeFacts): Finding {
  const instances = Number(sysctls['fs.inotify.max_user_instances'] ?? inotifyInstancesMin);
  if (instances >= inotifyInstancesMin) return ok(`the limit on inotify instances is ${instances}`);
  return warning(
    `the limit on inotify instances is only ${instances}: programs that watch files, such as the kubelet, may fail`,
    'sysctl -w fs.inotify.max_user_instances=8192',
  );
}

function clockFinding({ clock }: NodeFacts): Finding {
  const time = new Date(clock.nowMs).toISOString();
  if (clock.nowMs < clockMinMs)
    return broken(`the clock is wrong (${time}): certificates are not valid yet`, 'set the time, and start chrony or systemd-timesyncd');
  if (clock.isSynchronized === false) return warning(`the clock is not synchronized (${time})`, 'start chrony or systemd-timesyncd');
  return ok(`the time is ${time}`);
}
