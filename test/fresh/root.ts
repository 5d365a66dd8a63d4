/**
 * Root file systems of newly installed distributions: a minimal system with the distribution's Node and npm.
 *
 * They are built with mmdebstrap from the package archive that this machine uses, and cached in $BERTH_TEST_CACHE or ~/.cache/berth-test.
 */
import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

const checkout = resolve(import.meta.dirname, '../..');
const cacheDir = process.env['BERTH_TEST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'berth-test');
/** Environment variable that is set inside a fresh root, where no other root can be created. */
const marker = 'BERTH_FRESH_ROOT';
const packages = ['nodejs', 'npm', 'ca-certificates'];
/** Directory of the checkout in the root. */
const home = '/root/berth';

/** Releases by distribution. Only those of the distribution whose archive this machine uses are tested. */
const releasesOf: Readonly<Record<string, readonly string[]>> = { Debian: ['bookworm', 'trixie'], Ubuntu: ['noble'] };

type Archive = { readonly origin: string; readonly uri: string };

/** Returns why this machine cannot create fresh roots, or undefined if it can. */
export function whyNoFreshRoot(): string | undefined {
  if (process.env[marker] !== undefined) return 'this is a fresh root';
  if (process.getuid?.() !== 0) return 'not root';
  if (!['/usr/bin/mmdebstrap', '/usr/local/bin/mmdebstrap'].some((path) => existsSync(path)))
    return 'missing mmdebstrap (npm test installs it with apt-get)';
  return archive() === undefined ? 'apt uses neither the Debian archive nor the Ubuntu archive' : undefined;
}

/** Returns the code names of the releases that can be tested on this machine. */
export function freshReleases(): readonly string[] {
  return releasesOf[archive()?.origin ?? ''] ?? [];
}

export type FreshRoot = {
  /**
   * Runs a command in the checkout inside the root, in separate mount, UTS and IPC namespaces; with `isOffline` also in a separate network namespace.
   *
   * @param until sends SIGINT, like Ctrl-C, when the output contains this text. @returns the output and the exit code.
   */
  readonly run: (command: readonly string[], options?: { readonly isOffline?: boolean; readonly until?: string }) => Promise<Outcome>;
  readonly remove: () => void;
};

export type Outcome = { readonly output: string; readonly code: number | null };

/** Unpacks a root of the release and copies this checkout into it: tracked files, and untracked files that git does not ignore. */
export function openFreshRoot(release: string): FreshRoot {
  const root = mkdtempSync(`/var/tmp/berth-fresh-${release}-`);
  execFileSync('tar', ['-xf', preparedTar(release), '-C', root, '--exclude=./dev/*']);
  for (const path of ['/etc/resolv.conf', '/etc/ssl/certs/ca-certificates.crt']) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    if (existsSync(path)) copyFileSync(path, join(root, path));
  }
  mkdirSync(join(root, home), { recursive: true });
  const names = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: checkout, encoding: 'utf8' }).split('\n');
  const present = names.filter((name) => name !== '' && existsSync(join(checkout, name)));
  const archived = execFileSync('tar', ['-cf', '-', '-T', '-'], { cwd: checkout, input: present.join('\n'), maxBuffer: 2 ** 28 });
  execFileSync('tar', ['-xf', '-', '-C', join(root, home)], { input: archived });
  return {
    run: (command, options = {}) => runInside(root, command, options),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

/** Makes the root the root of the mount namespace with pivot_root: in a chroot, the kernel does not allow user namespaces. */
const enter = `
set -e
mount --bind "$1" "$1"
cd "$1"
mount --rbind /proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
[ "$2" = online ] || ip link set lo up
pivot_root . mnt
umount -l mnt
cd "$3"
shift 3
exec "$@"
`;

async function runInside(
  root: string,
  command: readonly string[],
  { isOffline = false, until }: { readonly isOffline?: boolean; readonly until?: string },
): Promise<Outcome> {
  const namespaces = ['--mount', '--uts', '--ipc', '--propagation', 'private', ...(isOffline ? ['--net'] : [])];
  const args = [...namespaces, 'sh', '-c', enter, 'sh', root, isOffline ? 'offline' : 'online', home, ...command];
  const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment(), detached: true });
  let output = '';
  let isInterrupted = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      process.stdout.write(text);
      if (until === undefined || isInterrupted || !output.includes(until)) return;
      isInterrupted = true;
      // Signal the whole process group, as a terminal does.
      process.kill(-(child.pid as number), 'SIGINT');
    });
  }
  const code = await new Promise<number | null>((settle) => child.once('close', settle));
  return { output, code };
}

/** Returns the environment of a user's shell, with this machine's settings for reaching package registries. */
function environment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => /^(https?_proxy|no_proxy|npm_config_.*|NODE_EXTRA_CA_CERTS|TERM)$/i.test(name));
  const outer = kept.filter(
    ([name]) => !/^npm_config_(prefix|local_prefix|user_agent|globalconfig|userconfig|init_module|node_gyp|cache)$/i.test(name),
  );
  const own = { HOME: '/root', PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', [marker]: '1' };
  return { ...Object.fromEntries(outer), ...own };
}

function preparedTar(release: string): string {
  const tar = join(cacheDir, `fresh-${release}.tar`);
  if (existsSync(tar)) return tar;
  mkdirSync(cacheDir, { recursive: true });
  process.stderr.write(`fresh: building a root file system of ${release} (first run only, takes two minutes)\n`);
  const { origin = '', uri = '' } = archive() ?? {};
  const components = origin === 'Ubuntu' ? 'main universe' : 'main';
  const unfinished = `${tar}.${process.pid}.tar`;
  const options = ['--quiet', '--mode=root', '--variant=minbase', `--include=${packages.join(',')}`];
  execFileSync('mmdebstrap', [...options, release, unfinished, `deb ${uri} ${release} ${components}`], { stdio: ['ignore', 'ignore', 'inherit'] });
  renameSync(unfinished, tar);
  return tar;
}

/** Returns the archive from which apt installs packages of this machine's release. */
function archive(): Archive | undefined {
  try {
    const format = '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)';
    const lines = execFileSync('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], { encoding: 'utf8' }).split('\n');
    const codename = /^VERSION_CODENAME=(\w+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
    const found = lines.map((line) => line.split(' ')).find(([, , release, component]) => release === codename && component === 'main');
    const [origin = '', uri = ''] = found ?? [];
    return origin in releasesOf ? { origin, uri } : undefined;
  } catch {
    return undefined;
  }
}
