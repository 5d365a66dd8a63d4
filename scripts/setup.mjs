/**
 * Installs what a fresh machine lacks: system packages, npm packages, and the build. Runs with any Node from 18 on, so it is plain JavaScript.
 *
 *   node scripts/setup.mjs [--test]     --test: also what only the tests need
 *
 * Without root, no system package is installed: set-up lists the missing packages, and builds what it can.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
/** The package's own path: npm before 11.6 does not create node_modules/.bin/node. */
const pinnedNode = join(root, `node_modules/node-linux-${process.arch}/bin/node`);
const isRoot = process.getuid?.() === 0;
const libraryDir = `/usr/lib/${{ x64: 'x86_64', arm64: 'aarch64' }[process.arch] ?? process.arch}-linux-gnu`;

/** Debian's package name, and programs on PATH or absolute paths, any of which shows that it is installed. */
const runPackages = [
  ['gcc', ['cc', 'gcc']],
  ['musl-tools', ['musl-gcc']],
  ['linux-libc-dev', ['/usr/include/linux/seccomp.h']],
  ['iproute2', ['ip']],
  ['iptables', ['iptables']],
  ['util-linux', ['unshare']],
  // Optional: without it gzip is decompressed by Node, which is slower.
  ['libisal2', [`${libraryDir}/libisal.so.2`]],
  ['containernetworking-plugins', ['/opt/cni/bin/bridge', '/usr/lib/cni/bridge']],
  ['libseccomp2', [`${libraryDir}/libseccomp.so.2`, '/usr/lib/libseccomp.so.2', '/usr/lib64/libseccomp.so.2']],
];

const testPackages = [
  ['clang', ['clang']],
  // The runtime of the sanitizers, in one directory per version of clang.
  [
    'libclang-rt-dev',
    llvmDirs()
      .map((directory) => `${directory}/lib/clang`)
      .filter(hasSanitizers),
  ],
  ['docker-registry', ['docker-registry']],
  ['fuse-overlayfs', ['fuse-overlayfs']],
  ['attr', ['setfattr']],
  ['busybox-static', ['busybox']],
  ['nginx', ['nginx']],
  ['make', ['make']],
  ['skopeo', ['skopeo']],
  ['umoci', ['umoci']],
  ['dpkg-dev', ['dpkg-source']],
  ['apache2-utils', ['htpasswd']],
  ['criu', ['criu']],
  ['openssl', ['openssl']],
  // The commands of docs/ use these.
  ['curl', ['curl']],
  ['procps', ['sysctl']],
  // promtool checks metrics, rules and queries.
  ['prometheus', ['promtool']],
  ...(process.arch === 'x64' ? vmPackages() : []),
];

try {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    fail(`unsupported platform ${process.platform} on ${process.arch}: berth runs on Linux on x86-64 and arm64`);
  }
  const isForTests = process.argv.includes('--test');
  const leftOut = installSystemPackages(isForTests ? [...runPackages, ...testPackages] : runPackages);
  installNpmPackages();
  const canCompile = isThere('musl-gcc') || isThere('gcc');
  run(pinnedNode, [join(root, 'scripts/build.mjs'), ...(canCompile ? [] : ['--without-monitor'])], 'building berth');
  if (isRoot || isThere('apt-get')) run(pinnedNode, [join(root, 'scripts/sample-image.ts')], 'downloading busybox for the sample image');
  if (isForTests && leftOut.length === 0) {
    run(pinnedNode, [join(root, 'scripts/build-monitor.mjs'), '--sanitize', '--fuzz'], 'building the monitor with sanitizers, and its fuzzer');
  }
  if (leftOut.length > 0) reportLeftOut(leftOut, canCompile, isForTests);
} catch (error) {
  process.stderr.write(`setup: ${error.message}\n`);
  process.exit(1);
}

/** Builds and runs the virtual machine of the tests; mmdebstrap also makes the fresh roots. */
function vmPackages() {
  return [
    ['qemu-system-x86', ['qemu-system-x86_64']],
    ['mmdebstrap', ['mmdebstrap']],
    ['e2fsprogs', ['mke2fs']],
    ['cpio', ['cpio']],
    ['xz-utils', ['xz']],
  ];
}

function llvmDirs() {
  return readdirSync('/usr/lib')
    .filter((name) => name.startsWith('llvm-'))
    .map((name) => `/usr/lib/${name}`);
}

function hasSanitizers(directory) {
  return existsSync(directory) && readdirSync(directory).some((version) => existsSync(join(directory, version, 'lib/linux')));
}

/** @returns the packages that are missing and that only root can install. */
function installSystemPackages(packages) {
  const missing = packages.filter(([, places]) => !places.some(isThere)).map(([name]) => name);
  if (missing.length === 0) return [];
  const names = missing.join(' ');
  if (!isRoot) return missing;
  if (!isThere('apt-get')) fail(`cannot install missing packages without apt-get; install them (names in Debian): ${names}`);
  say(`installing ${names}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const update = spawnSync('apt-get', ['-qq', 'update'], { stdio: ['ignore', 'ignore', 'inherit'], env });
  const options = ['-qq', '-y', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', 'install'];
  const install = withoutServices(() => spawnSync('apt-get', [...options, ...missing], { stdio: ['ignore', 'ignore', 'inherit'], env }));
  const hint = update.status === 0 ? '' : ' (apt-get update failed, too: check the network)';
  if (install.status !== 0) fail(`apt-get could not install ${names}${hint}`);
  return [];
}

function reportLeftOut(packages, canCompile, isForTests) {
  say(`missing packages, which only root can install; run: apt-get install ${packages.join(' ')}`);
  if (!canCompile) say('not built: the monitor (there is no C compiler); without it, no container can start');
  if (isForTests) say('not built: the monitor with sanitizers; tests that need a missing program are skipped or fail');
}

/** Installs packages without starting their services, by Debian's policy-rc.d. */
function withoutServices(install) {
  const policy = '/usr/sbin/policy-rc.d';
  if (existsSync(policy)) return install();
  writeFileSync(policy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    return install();
  } finally {
    rmSync(policy);
  }
}

/** A name without a slash is searched for on PATH and in the sbin directories, which may not be on it. */
function isThere(place) {
  if (place.startsWith('/')) return existsSync(place);
  return [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'].some((directory) => existsSync(join(directory, place)));
}

/** Runs `npm ci` when the lock file has changed since the last time. */
function installNpmPackages() {
  const stamp = join(root, 'node_modules/.installed-from');
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], 'installing the npm packages (needs the npm registry)');
    writeFileSync(stamp, wanted);
  }
  if (!existsSync(pinnedNode)) {
    fail(`the npm package node-linux-${process.arch} is missing (${pinnedNode}): run npm ci without --omit=optional`);
  }
}

function run(command, args, what) {
  say(what);
  try {
    execFileSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  } catch (error) {
    fail(`${what} failed: ${error.message.split('\n')[0]}`);
  }
}

function say(text) {
  process.stdout.write(`setup: ${text}\n`);
}

function fail(text) {
  throw new Error(text);
}
