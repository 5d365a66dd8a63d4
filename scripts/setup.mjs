/**
 * Gets everything that a fresh machine lacks: system packages, npm packages, and the build. Run by whatever Node is there, so plain JavaScript.
 *
 *   node scripts/setup.mjs [--test]     with --test also what only the tests need
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const libraryDir = `/usr/lib/${{ x64: 'x86_64', arm64: 'aarch64' }[process.arch] ?? process.arch}-linux-gnu`;

/** Debian's name of what is needed, and where it shows that it is there: any of the programs on PATH or of the absolute paths will do. */
const runPackages = [
  ['gcc', ['cc', 'gcc']],
  ['musl-tools', ['musl-gcc']],
  ['linux-libc-dev', ['/usr/include/linux/seccomp.h']],
  ['iproute2', ['ip']],
  ['iptables', ['iptables']],
  ['util-linux', ['unshare']],
  // Optional for berth, which has a slower way to read gzip without it.
  ['libisal2', [`${libraryDir}/libisal.so.2`]],
  ['containernetworking-plugins', ['/opt/cni/bin/bridge', '/usr/lib/cni/bridge']],
  ['libseccomp2', [`${libraryDir}/libseccomp.so.2`, '/usr/lib/libseccomp.so.2', '/usr/lib64/libseccomp.so.2']],
];

const testPackages = [
  ['clang', ['clang']],
  // The sanitizers' runtime, in a directory per version of clang.
  [
    'libclang-rt-dev',
    llvmDirs()
      .map((directory) => `${directory}/lib/clang`)
      .filter(hasSanitizers),
  ],
  ['docker-registry', ['docker-registry']],
  ['fuse-overlayfs', ['fuse-overlayfs']],
  ['nginx', ['nginx']],
  ['make', ['make']],
  ['skopeo', ['skopeo']],
  ['umoci', ['umoci']],
  ['dpkg-dev', ['dpkg-source']],
  ['apache2-utils', ['htpasswd']],
  ['criu', ['criu']],
  ['openssl', ['openssl']],
  // Its promtool checks metrics, rules and queries.
  ['prometheus', ['promtool']],
  ...(process.arch === 'x64' ? vmPackages() : []),
];

try {
  if (process.platform !== 'linux' || !['x64', 'arm64'].includes(process.arch)) {
    fail(`berth runs on Linux on x86-64 and arm64; this is ${process.platform} on ${process.arch}.`);
  }
  installSystemPackages(process.argv.includes('--test') ? [...runPackages, ...testPackages] : runPackages);
  installNpmPackages();
  run(join(root, 'node_modules/.bin/node'), [join(root, 'scripts/build.mjs')], 'building berth');
  run(join(root, 'node_modules/.bin/node'), [join(root, 'scripts/sample-image.ts')], 'fetching the program of the sample image');
  if (process.argv.includes('--test')) {
    run(
      join(root, 'node_modules/.bin/node'),
      [join(root, 'scripts/build-monitor.mjs'), '--sanitize', '--fuzz'],
      'building the monitor with sanitizers, and its fuzzer',
    );
  }
} catch (error) {
  process.stderr.write(`setup: ${error.message}\n`);
  process.exit(1);
}

/** What the virtual machine is built with, and runs in. */
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

function installSystemPackages(packages) {
  const missing = packages.filter(([, places]) => !places.some(isThere)).map(([name]) => name);
  if (missing.length === 0) return;
  const names = missing.join(' ');
  if (!isThere('apt-get')) fail(`these are missing, and there is no apt-get here to install them (Debian's names): ${names}`);
  if (process.getuid() !== 0) fail(`these are missing, and only root can install them: run as root, or first: apt-get install ${names}`);
  say(`installing ${names}`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const update = spawnSync('apt-get', ['-qq', 'update'], { stdio: ['ignore', 'ignore', 'inherit'], env });
  const options = ['-qq', '-y', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', 'install'];
  const install = withoutServices(() => spawnSync('apt-get', [...options, ...missing], { stdio: ['ignore', 'ignore', 'inherit'], env }));
  const hint = update.status === 0 ? '' : ' (its package lists could not be fetched either: is there a network?)';
  if (install.status !== 0) fail(`apt-get could not install ${names}${hint}`);
}

/** Keeps packages from starting the services that they bring, as Debian's policy lets the local administrator. */
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

/** A name without a slash is looked for on PATH, and where a root's PATH may not lead. */
function isThere(place) {
  if (place.startsWith('/')) return existsSync(place);
  return [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'].some((directory) => existsSync(join(directory, place)));
}

/** Installs when the lock file is another one than at the last time. */
function installNpmPackages() {
  const stamp = join(root, 'node_modules/.installed-from');
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], 'installing the npm packages (needs the npm registry)');
    writeFileSync(stamp, wanted);
  }
  const node = join(root, 'node_modules/.bin/node');
  if (!existsSync(node)) fail(`the npm package with this platform's Node is missing (${node}): run npm ci with optional packages`);
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
