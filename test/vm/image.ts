/**
 * Builds the virtual machine for tests: QEMU, Debian's kernel, and a root disk with systemd.
 *
 * All packages come from the Debian archive that this machine uses. The image is cached in $BERTH_TEST_CACHE or ~/.cache/berth-test.
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
  /** The program, and arguments with the location of its data files. */
  readonly qemu: readonly string[];
  /** Whether it can emulate each processor in its own thread. */
  readonly isThreadSafe: boolean;
  readonly kernel: string;
  readonly initramfs: string;
  readonly disk: string;
};

const guestDir = join(import.meta.dirname, 'guest');
const cacheDir = process.env['BERTH_TEST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'berth-test');

/** Packages of a node, and programs that the tests and critest run. */
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

/** Files that are not installed: they are not needed, and writing them would take most of the time. */
const excludedPaths = [
  ...['doc', 'man', 'locale', 'info'].map((name) => `/usr/share/${name}/*`),
  ...['sound', 'drivers/gpu', 'drivers/media', 'drivers/usb', 'drivers/scsi', 'drivers/infiniband', 'drivers/iio', 'drivers/hwmon', 'drivers/ata'],
  ...['drivers/net/ethernet', 'drivers/net/wireless', 'drivers/net/can', 'drivers/input', 'drivers/staging', 'drivers/hid', 'drivers/platform'],
  ...['fs/ocfs2', 'fs/smb', 'fs/ceph', 'fs/nfs', 'fs/gfs2'],
].map((path) => (path.startsWith('/') ? path : `*/lib/modules/*/kernel/${path}/*`));

/** Kernel modules for the root disk and the output, in dependency order. */
const earlyModules = ['virtio_pci', 'virtio_blk', 'virtio_console', 'crc32c_generic', 'ext4'];

/** Units that no test needs and that are slow under emulation. */
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

/** Returns why this machine cannot run the virtual machine, or undefined if it can. */
export function whyNoVm(): string | undefined {
  if (process.env['BERTH_FRESH_ROOT'] !== undefined) return 'inside a fresh root, where the virtual machine would be the same as outside';
  if (process.arch !== 'x64') return `the virtual machine requires x86-64, this machine is ${process.arch}`;
  if (process.getuid?.() !== 0) return 'not root';
  if (!/^ID=debian$/m.test(read('/etc/os-release'))) return 'not Debian: the virtual machine is built from its packages';
  const missing = ['qemu-system-x86_64', 'mmdebstrap', 'mke2fs', 'cpio'].filter((name) => !isOnPath(name));
  return missing.length === 0 ? undefined : `missing ${missing.join(', ')} (npm test installs them with apt-get)`;
}

/** Builds the image unless it is cached. A build needs the network and takes some minutes. @throws Error with the failed step. */
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

/** Returns a key of the image: it changes with the Debian release, this file and the guest's files. */
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
    if (!isRecent('qemu-system-x86_64')) installNewerQemu(join(work, 'image/qemu'));
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

/** Removes images that were not used for keptDays. Other checkouts may use other images. */
function removeUnused(): void {
  const oldest = Date.now() - keptDays * 86_400_000;
  for (const name of readdirSync(cacheDir)) {
    if (statSync(join(cacheDir, name)).mtimeMs < oldest) rmSync(join(cacheDir, name), { recursive: true, force: true });
  }
}

/**
 * Installs a newer QEMU. Emulation with a thread for each processor is safe since QEMU 8.1: before, a processor may run code that another one is
 * modifying, and the guest kernel crashes. Debian 12 has an older version, its backports have a newer one.
 */
function installNewerQemu(destination: string): void {
  say('installing a newer QEMU from backports');
  const source = `deb ${mirrors()[0]?.uri} ${codename()}-backports main`;
  try {
    takeFromPackage('qemu-system-x86', ['usr/bin/qemu-system-x86_64'], join(destination, 'qemu-system-x86_64'), source);
    takeFromPackage('qemu-system-data', ['usr/share/qemu'], join(destination, 'share'), source);
    if (!isRecent(join(destination, 'qemu-system-x86_64'))) throw new Error('QEMU from backports is not newer, or does not start');
  } catch (error) {
    say(`emulating all processors in one thread: ${(error as Error).message}`);
    rmSync(destination, { recursive: true, force: true });
  }
}

function buildTree(tree: string): void {
  say('building the root file system (first run only, takes some minutes)');
  const sources = mirrors().map(({ uri, release, component }) => `deb ${uri} ${release} ${component}`);
  const options = ['--quiet', '--mode=root', '--variant=minbase', '--format=directory', `--include=${[kernelPackage(), ...guestPackages].join(',')}`];
  const excludes = excludedPaths.map((path) => `--dpkgopt=path-exclude=${path}`);
  // INITRD=No: the kernel package does not build an initramfs.
  run('mmdebstrap', [...options, ...excludes, codename(), tree, ...sources], { INITRD: 'No' });
  // Without signatures, because an emulated processor needs 100 ms to check one.
  for (const path of filesBelow(join(tree, 'usr/lib/modules'), /\.ko(\.xz)?$/)) removeSignature(path);
  run('chroot', [tree, 'depmod', kernelVersion(tree)]);
  for (const name of ['first-process', 'vm-job']) install(join(guestDir, name), join(tree, 'usr/local/sbin', name));
  // critest uses sudo to load AppArmor profiles.
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

function removeSignature(path: string): void {
  if (path.endsWith('.xz')) run('xz', ['-d', path]);
  const file = path.replace(/\.xz$/, '');
  const bytes = readFileSync(file);
  if (bytes.subarray(-28).toString('latin1') !== '~Module signature appended~\n') return;
  // The marker is preceded by 12 bytes, the last four of which are the signature's length (include/linux/module_signature.h).
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

/** Creates a sparse disk image with ext4. It has no journal, because its changes are discarded after each run. */
function makeDisk(tree: string, destination: string): void {
  writeFileSync(destination, '');
  truncateSync(destination, diskBytes);
  const features = '^has_journal,^metadata_csum,^resize_inode';
  run('mke2fs', ['-q', '-F', '-t', 'ext4', '-m', '0', '-O', features, '-E', 'lazy_itable_init=1', '-d', tree, destination]);
}

/** Returns the sources from which apt installs Debian packages, the release itself first. */
function mirrors(): { readonly uri: string; readonly release: string; readonly component: string }[] {
  const lines = run('apt-get', ['indextargets', '--format', '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages']).split('\n');
  const found = lines.map((line) => line.split(' ')).filter(([origin, , , component]) => origin === 'Debian' && component === 'main');
  const sources = found.map(([, uri = '', release = '', component = '']) => ({ uri, release, component }));
  return sources.sort((a, b) => Number(b.release === codename()) - Number(a.release === codename()));
}

const codename = () => /^VERSION_CODENAME=(\w+)$/m.exec(read('/etc/os-release'))?.[1] ?? 'stable';
/** User namespaces of pods need Linux 6.3. Debian 12 has 6.1, and 6.12 as an additional package. */
const kernelPackage = () => (codename() === 'bookworm' ? 'linux-image-6.12-amd64' : 'linux-image-amd64');
const kernelVersion = (tree: string) => readdirSync(join(tree, 'usr/lib/modules'))[0] ?? '';
const read = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : '');

function isOnPath(name: string): boolean {
  return [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'].some((directory) => existsSync(join(directory, name)));
}

/** Returns whether this QEMU starts and is version 8.1 or newer. */
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
