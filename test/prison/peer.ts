/**
 * Installs and starts the peer of the prison: containerd with runc, in directories of its own.
 *
 * Call enterIsolation() before startPeer(). The versions are pinned; the programs are in build/prison-peer, static, so that the virtual machine runs them too.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type CriClient, connectCri } from '../../scripts/cri-client.ts';
import { takeFromPackage } from '../../scripts/debian.ts';
import { buildImage, buildLayer, type Image } from '../../scripts/image-builder.ts';
import { serveRegistry } from '../../scripts/mini-registry.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';

export const versions = { containerd: 'v2.4.2', runc: 'v1.5.3' };

const directory = resolve(import.meta.dirname, '../../build/prison-peer');

export type Peer = { readonly client: CriClient; readonly image: string; readonly end: () => Promise<void> };

/** Builds containerd and runc from their Go modules unless they are there. Needs Go, gcc, pkg-config and the network. */
export function preparePeer(): void {
  mkdirSync(directory, { recursive: true });
  for (const program of ['containerd', 'containerd-shim-runc-v2'])
    install(program, { CGO_ENABLED: '0' }, [`github.com/containerd/containerd/v2/cmd/${program}@${versions.containerd}`]);
  if (existsSync(join(directory, 'runc'))) return;
  const isStatic = ['-tags', 'seccomp,netgo,osusergo', '-ldflags', '-extldflags -static'];
  install('runc', { CGO_ENABLED: '1', ...takeLibseccomp() }, [...isStatic, `github.com/opencontainers/runc@${versions.runc}`]);
}

function install(program: string, env: Readonly<Record<string, string>>, args: readonly string[]): void {
  if (existsSync(join(directory, program))) return;
  execFileSync('go', ['install', ...args], { stdio: 'inherit', env: { ...process.env, GOBIN: directory, ...env } });
}

/**
 * Takes the libseccomp of runc's own releases: an older one does not know newer system calls, and runc then refuses calls that the profile allows.
 * @returns variables for Go: cgo's cache does not see that pkg-config finds another library, but it sees the flags.
 */
function takeLibseccomp(): Record<string, string> {
  const tree = join(directory, 'libseccomp');
  const source = `deb [trusted=yes] ${debianMirror()} trixie main`;
  const libraries = 'usr/lib/x86_64-linux-gnu';
  for (const path of [`${libraries}/libseccomp.a`, `${libraries}/pkgconfig`, 'usr/include'])
    takeFromPackage('libseccomp-dev', [path], join(tree, path), source);
  const file = join(tree, libraries, 'pkgconfig/libseccomp.pc');
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll('/usr', join(tree, 'usr')));
  const flags = { CGO_CFLAGS: `-O2 -I${tree}/usr/include`, CGO_LDFLAGS: `-L${join(tree, libraries)}` };
  return { PKG_CONFIG_LIBDIR: join(tree, libraries, 'pkgconfig'), ...flags };
}

/** Returns the archive from which apt installs packages. */
function debianMirror(): string {
  const lines = execFileSync('apt-get', ['indextargets', '--format', '$(ORIGIN) $(REPO_URI)', 'Created-By: Packages'], { encoding: 'utf8' });
  const [, uri] = /^Debian (\S+)$/m.exec(lines) ?? [];
  if (uri === undefined) throw new Error('apt has no Debian archive to take libseccomp from');
  return uri;
}

/** Returns what runc says of its versions, such as `libseccomp`. */
export function runcVersions(): Readonly<Record<string, string>> {
  const text = execFileSync(join(directory, 'runc'), ['--version'], { encoding: 'utf8' });
  return Object.fromEntries([...text.matchAll(/^(libseccomp|spec): (\S+)$/gm)].map(([, name, version]) => [name, version]));
}

/** Starts containerd and pulls the sample image. @param hasSystemd uses the cgroup driver of systemd. */
export async function startPeer(workDir: string, hasSystemd: boolean): Promise<Peer> {
  const registry = await serveRegistry(
    new Map([
      ['prison/sample:1', await buildSampleImage()],
      ['prison/pause:1', await pauseImage()],
    ]),
  );
  const socket = '/run/prison-peer/cri.sock';
  mkdirSync('/run/prison-peer', { recursive: true });
  const pause = `${registry.host}/prison/pause:1`;
  writeFileSync(join(workDir, 'containerd.toml'), configuration(workDir, socket, pause, hasSystemd));
  mkdirSync(join(workDir, 'cni'), { recursive: true });
  writeFileSync(join(workDir, 'cni/10-prison.conflist'), conflist(join(workDir, 'leases')));
  const log = openSync(join(workDir, 'containerd.log'), 'a');
  const env = { ...process.env, PATH: `${directory}:${process.env['PATH']}` };
  const child = spawn(join(directory, 'containerd'), ['--config', join(workDir, 'containerd.toml')], { stdio: ['ignore', log, log], env });
  const client = connectCri(`unix://${socket}`);
  for (let waits = 0; !(await isReady(client)); waits += 1) {
    if (waits > 1200 || child.exitCode !== null)
      throw new Error(`containerd did not start:\n${readFileSync(join(workDir, 'containerd.log'), 'utf8').slice(-4000)}`);
    await sleep(100);
  }
  const image = `${registry.host}/prison/sample:1`;
  for (const name of [pause, image]) await client.call('PullImage', { image: { image: name } }, 300_000);
  const end = async () => {
    client.close();
    registry.stop();
    child.kill('SIGTERM');
    await new Promise((settle) => child.once('exit', settle));
  };
  return { client, image, end };
}

async function isReady(client: CriClient): Promise<boolean> {
  const status = await client.call<{ status: { conditions: { type: string; status: boolean }[] } }>('Status', {}, 20_000).catch(() => undefined);
  return status?.status.conditions.filter(({ type, status }) => /^(Runtime|Network)Ready$/.test(type) && status).length === 2;
}

/** The image of the sandbox's own process, which only waits. */
async function pauseImage(): Promise<Image> {
  const busybox = readFileSync(resolve(import.meta.dirname, '../../build/sample/busybox'));
  const layer = await buildLayer([{ kind: 'file', path: 'bin/busybox', data: busybox, mode: 0o755 }]);
  return buildImage([layer], { Env: ['PATH=/bin'], Entrypoint: ['/bin/busybox', 'sleep', '1000000'] }, undefined, 'amd64');
}

function configuration(workDir: string, socket: string, pause: string, hasSystemd: boolean): string {
  return `version = 3
root = "${workDir}/root"
state = "/run/prison-peer/state"
[grpc]
  address = "${socket}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "${pause}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "${workDir}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "${directory}/runc"
      SystemdCgroup = ${hasSystemd}
`;
}

function conflist(leases: string): string {
  const ipam = { type: 'host-local', dataDir: leases, ranges: [[{ subnet: '10.88.0.0/16' }]] };
  return JSON.stringify({ cniVersion: '1.0.0', name: 'prison', plugins: [{ type: 'bridge', bridge: 'prison0', isGateway: true, ipam }] });
}
