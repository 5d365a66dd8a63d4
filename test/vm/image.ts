/**
 * Builds the virtual machine that tests run in, once: a qemu that can emulate several processors, Debian's kernel, a root disk with systemd.
 *
 * All from the Debian archive that this machine uses, kept outside the checkout: in $BERTH_TEST_CACHE, or ~/.cache/berth-test.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { takeFromPackage } from '../../scripts/debian.ts';

export type Image = {
  /** Program and arguments that say where its own files are. */
  readonly qemu: readonly string[];
  readonly isThreadSafe: boolean;
  readonly kernel: string;
  readonly initramfs: string;
  readonly disk: string;
};

const guestDir = join(import.meta.dirname, 'guest');
const cacheDir = process.env['BERTH_TEST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'berth-test');

/** A node's packages, and what tests and critest call. */
const guestPackages = [
  ...['kmod', 'busybox-static', 'systemd', 'systemd-sysv', 'dbus', 'procps', 'iproute2', 'iptables', 'conntrack', 'criu'],
  ...[
    'containernetworking-plugins',
    'docker-registry',
    'libseccomp2',
    'libstdc++6',
    'e2fsprogs',
    'xfsprogs',
    'apparmor',
    'openssl',
    'ca-certificates',
  ],
];

/** Of the root disk nobody reads these, and most of the time goes into writing them. */
const leftOut = [
  ...['doc', 'man', 'locale', 'info'].map((name) => `/usr/share/${name}/*`),
  ...['sound', 'drivers/gpu', 'drivers/media', 'drivers/usb', 'drivers/scsi', 'drivers/infiniband', 'drivers/iio', 'drivers/hwmon', 'drivers/ata'],
  ...['drivers/net/ethernet', 'drivers/net/wireless', 'drivers/net/can', 'drivers/input', 'drivers/staging', 'drivers/hid', 'drivers/platform'],
  ...['fs/ocfs2', 'fs/smb', 'fs/ceph', 'fs/nfs', 'fs/gfs2'],
].map((path) => (path.startsWith('/') ? path : `*/lib/modules/*/kernel/${path}/*`));

/** What leads to the root disk and the output, in an order in which each finds what it needs. */
const earlyModules = ['virtio_pci', 'virtio_blk', 'virtio_console', 'crc32c_generic', 'ext4'];

/** Slow where everything is emulated, and needed by no test. */
const maskedUnits = [
  ...['apparmor.service', 'systemd-journal-flush.service', 'systemd-update-utmp.service', 'systemd-binfmt.service', 'systemd-sysusers.service'],
  ...['systemd-random-seed.service', 'systemd-remount-fs.service', 'systemd-modules-load.service', 'systemd-pcrphase-sysinit.service'],
  ...['systemd-firstboot.service', 'systemd-tmpfiles-clean.timer', 'apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer'],
  ...[
    'e2scrub_all.timer',
    'fstrim.timer',
    'proc-sys-fs-binfmt_misc.automount',
    'systemd-ask-password-console.path',
    'kmod-static-nodes.service',
    'systemd-udev-trigger.service',
    'modprobe@.service',
  ],
];

const diskBytes = 12 * 2 ** 30;
const keptDays = 14;

/** @returns why this machine can have no such virtual machine; undefined when it can. */
export function whyNoVm(): string | undefined {
  if (process.env['BERTH_FRESH_ROOT'] !== undefined) return 'in a fresh root: the virtual machine is the same outside';
  if (process.arch !== 'x64') return `the virtual machine is x86-64 only, and this is ${process.arch}`;
  if (process.getuid?.() !== 0) return 'not root';
  if (!/^ID=debian$/m.test(read('/etc/os-release'))) return 'no Debian, from whose packages the virtual machine is built';
  const missing = ['qemu-system-x86_64', 'mmdebstrap', 'mke2fs', 'cpio'].filter((name) => !isOnPath(name));
  return missing.length === 0 ? undefined : `no ${missing.join(', no ')} (npm test installs them, with apt-get)`;
}

/** Builds what is not there yet; takes some minutes and the network then. @throws Error that names the step. */
export function prepareImage(): Image {
  const directory = join(cacheDir, `vm-${imageKey()}`);
  if (existsSync(directory)) utimesSync(directory, new Date(), new Date());
  else build(directory);
  const newer = join(directory, 'qemu');
  const hasNewer = existsSync(newer);
  return {
    qemu: hasNewer ? [join(newer, 'qemu-system-x86_64'), '-L', join(newer, 'share'), '-L', '/usr/share/seabios'] : ['qemu-system-x86_64'],
    isThreadSafe: hasNewer || isRecent('qemu-system-x86_64'),
    kernel: join(directory, 'kernel'),
    initramfs: join(directory, 'initramfs'),
    disk: join(directory, 'disk'),
  };
}

/** Another Debian, another list, another script: another image. */
function imageKey(): string {
  const hash = createHash('sha256')
    .update(read('/etc/os-release'))
    .update(readFileSync(import.meta.filename));
  for (const name of readdirSync(guestDir, { recursive: true, encoding: 'utf8' }).sort()) {
    if (statSync(join(guestDir, name)).isFile()) hash.update(name).update(readFileSync(join(guestDir, name)));
  }
  return hash.digest('hex').slice(0, 12);
}

function build(directory: string): void {
  mkdirSync(cacheDir, { recursive: true });
  removeUnused();
  const work = mkdtempSync(join(cacheDir, 'unfinished-'));
  try {
    run('apt-get', ['-qq', 'update']);
    mkdirSync(join(work, 'image'));
    if (!isRecent('qemu-system-x86_64')) takeNewerQemu(join(work, 'image/qemu'));
    const tree = join(work, 'tree');
    buildTree(tree);
    makeKernel(tree, join(work, 'image/kernel'));
    makeInitramfs(tree, join(work, 'initramfs'), join(work, 'image/initramfs'));
    makeDisk(tree, join(work, 'image/disk'));
    if (!existsSync(directory)) renameSync(join(work, 'image'), directory);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Those of other versions of the repository stay as long as somebody uses them. */
function removeUnused(): void {
  const oldest = Date.now() - keptDays * 86_400_000;
  for (const name of readdirSync(cacheDir)) {
    if (statSync(join(cacheDir, name)).mtimeMs < oldest) rmSync(join(cacheDir, name), { recursive: true, force: true });
  }
}

/**
 * Emulation with a thread for each processor is safe from qemu 8.1 on: before, a processor may run code that another is just changing, and kernels
 * die of it. Debian 12 has an older one, and its backports a newer.
 */
function takeNewerQemu(destination: string): void {
  say('getting a newer qemu from backports');
  const source = `deb ${mirrors()[0]?.uri} ${codename()}-backports main`;
  try {
    takeFromPackage('qemu-system-x86', ['usr/bin/qemu-system-x86_64'], join(destination, 'qemu-system-x86_64'), source);
    takeFromPackage('qemu-system-data', ['usr/share/qemu'], join(destination, 'share'), source);
    if (!isRecent(join(destination, 'qemu-system-x86_64'))) throw new Error('it is no newer, or does not start here');
  } catch (error) {
    say(`going on with one thread for all processors: ${(error as Error).message}`);
    rmSync(destination, { recursive: true, force: true });
  }
}

function buildTree(tree: string): void {
  say('building the root file system (some minutes, once)');
  const sources = mirrors().map(({ uri, release, component }) => `deb ${uri} ${release} ${component}`);
  const options = ['--quiet', '--mode=root', '--variant=minbase', '--format=directory', `--include=${[kernelPackage(), ...guestPackages].join(',')}`];
  const excludes = leftOut.map((path) => `--dpkgopt=path-exclude=${path}`);
  // The kernel's package makes no initramfs then.
  run('mmdebstrap', [...options, ...excludes, codename(), tree, ...sources], { INITRD: 'No' });
  // Checking signatures takes an emulated processor a tenth of a second for each module.
  for (const path of filesBelow(join(tree, 'usr/lib/modules'), /\.ko(\.xz)?$/)) cutSignature(path);
  run('chroot', [tree, 'depmod', kernelVersion(tree)]);
  for (const name of ['first-process', 'vm-job']) install(join(guestDir, name), join(tree, 'usr/local/sbin', name));
  // critest loads profiles with sudo.
  writeFileSync(join(tree, 'usr/local/bin/sudo'), '#!/bin/sh\nexec "$@"\n', { mode: 0o755 });
  const units = join(tree, 'etc/systemd/system');
  for (const name of readdirSync(join(guestDir, 'units'))) copyFileSync(join(guestDir, 'units', name), join(units, name));
  for (const name of maskedUnits) {
    rmSync(join(units, name), { force: true });
    symlinkSync('/dev/null', join(units, name));
  }
  writeFileSync(join(tree, 'etc/fstab'), '');
  writeFileSync(join(tree, 'etc/resolv.conf'), '');
  writeFileSync(join(tree, 'etc/hostname'), 'vm\n');
  writeFileSync(join(tree, 'etc/hosts'), '127.0.0.1 localhost vm\n::1 localhost\n');
  writeFileSync(join(tree, 'etc/machine-id'), `${'0123456789abcdef'.repeat(2)}\n`);
  mkdirSync(join(tree, 'opt/cni'), { recursive: true });
  symlinkSync('/usr/lib/cni', join(tree, 'opt/cni/bin'));
}

function cutSignature(path: string): void {
  if (path.endsWith('.xz')) run('xz', ['-d', path]);
  const file = path.replace(/\.xz$/, '');
  const bytes = readFileSync(file);
  if (bytes.subarray(-28).toString('latin1') !== '~Module signature appended~\n') return;
  // Before the words: 12 bytes of which the last four are the signature's length (include/linux/module_signature.h).
  truncateSync(file, bytes.length - 40 - bytes.readUInt32BE(bytes.length - 32));
}

function makeKernel(tree: string, destination: string): void {
  const [kernel = ''] = filesBelow(join(tree, 'boot'), /^vmlinuz-/);
  copyFileSync(kernel, destination);
}

function makeInitramfs(tree: string, content: string, destination: string): void {
  for (const name of ['bin', 'modules', 'proc', 'sys', 'dev', 'root']) mkdirSync(join(content, name), { recursive: true });
  install(join(tree, 'usr/bin/busybox'), join(content, 'bin/busybox'));
  install(join(guestDir, 'initramfs'), join(content, 'init'));
  const shown = earlyModules.map((name) => run('chroot', [tree, 'modprobe', '-S', kernelVersion(tree), '--show-depends', name]));
  const paths = [...new Set(shown.join('').match(/(?<=^insmod )\S+/gm))];
  for (const [index, path] of paths.entries()) copyFileSync(join(tree, path), join(content, 'modules', `${100 + index}-${basename(path)}`));
  const names = readdirSync(content, { recursive: true, encoding: 'utf8' });
  writeFileSync(destination, execFileSync('cpio', ['--quiet', '-o', '-H', 'newc'], { cwd: content, input: names.join('\n'), maxBuffer: 2 ** 28 }));
}

/** Sparse. Without a journal: nothing in it outlives a run. */
function makeDisk(tree: string, destination: string): void {
  writeFileSync(destination, '');
  truncateSync(destination, diskBytes);
  const features = '^has_journal,^metadata_csum,^resize_inode';
  run('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-O', features, '-E', 'lazy_itable_init=1', '-d', tree, destination]);
}

/** What apt reads Debian's own packages from, the release itself first. */
function mirrors(): { readonly uri: string; readonly release: string; readonly component: string }[] {
  const lines = run('apt-get', ['indextargets', '--format', '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages']).split('\n');
  const found = lines.map((line) => line.split(' ')).filter(([origin, , , component]) => origin === 'Debian' && component === 'main');
  const sources = found.map(([, uri = '', release = '', component = '']) => ({ uri, release, component }));
  return sources.sort((a, b) => Number(b.release === codename()) - Number(a.release === codename()));
}

const codename = () => /^VERSION_CODENAME=(\w+)$/m.exec(read('/etc/os-release'))?.[1] ?? 'stable';
/** User namespaces of pods need 6.3, and Debian 12 has a newer kernel beside its own. */
const kernelPackage = () => (codename() === 'bookworm' ? 'linux-image-6.12-amd64' : 'linux-image-amd64');
const kernelVersion = (tree: string) => readdirSync(join(tree, 'usr/lib/modules'))[0] ?? '';
const read = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : '');

function isOnPath(name: string): boolean {
  return [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'].some((directory) => existsSync(join(directory, name)));
}

/** @returns whether this qemu starts, and is 8.1 or newer. */
function isRecent(qemu: string): boolean {
  try {
    const [, major, minor] = /version (\d+)\.(\d+)/.exec(run(qemu, ['--version'])) ?? [];
    return Number(major) > 8 || (Number(major) === 8 && Number(minor) >= 1);
  } catch {
    return false;
  }
}

function filesBelow(directory: string, pattern: RegExp): string[] {
  const names = readdirSync(directory, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => pattern.test(name)).map((name) => join(directory, name));
}

function install(from: string, to: string): void {
  writeFileSync(to, readFileSync(from), { mode: 0o755 });
}

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const PATH = `${process.env['PATH']}:/usr/sbin:/sbin`;
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, PATH, ...env } });
  } catch (error) {
    throw new Error(`${command} ${args[0]}: ${String((error as { stderr?: string }).stderr ?? error).trim()}`);
  }
}

function say(text: string): void {
  process.stderr.write(`vm: ${text}\n`);
}
