/**
 * Runs the command blocks marked `sh root` in README.md and docs/, page by page, and compares their output with what the pages show.
 *
 * The commands run as written, with the default paths: /etc, /run, /tmp, /usr/local, /var/lib and /var/log belong to the test, docker.io is a registry on
 * loopback, and support/systemd has placeholders for systemctl and journalctl. Blocks with other marks are checked by test/docs.test.ts.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { type MiniRegistry, serveRegistry } from '../../scripts/mini-registry.ts';
import { buildSampleImage } from '../../scripts/sample-image.ts';
import { builtCrictl } from '../critest/prepare.ts';
import { removeCgroup } from '../support/cgroups.ts';
import { type Block, type Page, readPages } from '../support/doc-pages.ts';
import { enterIsolation } from '../support/isolation.ts';
import { isBuilt } from './support/daemon.ts';

const root = resolve(import.meta.dirname, '../..');
const crictl = builtCrictl();
const lack = !isBuilt ? 'berth is not built' : crictl === undefined ? 'crictl is not built: npm run critest builds it' : false;
const pages = readPages().filter(({ blocks }) => blocks.some(({ kind }) => kind === 'sh root'));
if (lack === false) enterIsolation();

/** Where the checkout is visible, read-only, below the test's own /run. */
const checkout = '/run/checkout';
const image = 'docker.io/library/busybox:1.36';
const cgroup = `berth-docs-${process.pid}-${Date.now().toString(36)}`;
const pageTimeoutMs = 120_000;

/** A shell script that prepares what a page assumes, and one that verifies the result. */
type Assumption = { readonly prepare: string; readonly verify?: string };

/** berth is installed, the daemon runs, and the container web of the pod hello is running. */
const runningPod: Assumption = { prepare: 'checkout; installed; pod' };

const assumptions: Readonly<Record<string, Assumption>> = {
  // Step 1 of the page, which installs packages, is not run.
  'docs/getting-started.md': { prepare: 'checkout', verify: 'test -z "$(crictl pods -q)"' },
  'docs/images.md': {
    prepare: `checkout; installed; pod; mkdir /tmp/images; cd /tmp/images; berth image export ${image} -o images.tar; gzip -k images.tar; mv images.tar.gz busybox.tar.gz`,
    verify: `cmp images.tar busybox.tar`,
  },
  'docs/installation.md': { prepare: 'cd /usr/local/lib/berth; network', verify: 'test ! -e /var/lib/berth -a ! -e /usr/local/bin/berth' },
  'docs/migrating-from-containerd.md': {
    prepare: 'checkout; installed; stopped; kubelet containerd',
    verify: 'test -e /etc/berth/certs.d/example.com/hosts.toml; grep -q containerd.sock /var/lib/kubelet/instance-config.yaml',
  },
  'docs/migrating-from-cri-o.md': {
    prepare: 'checkout; installed; stopped; kubelet crio',
    verify: 'grep -q crio.sock /var/lib/kubelet/instance-config.yaml',
  },
};

/** Shell functions for the assumptions. */
const functions = `
checkout() {
  cd /usr/local/lib/berth
  ln -sfn /usr/local/lib/berth/bin/berth /usr/local/bin/berth
}
network() {
  mkdir -p /etc/cni/net.d
  cp deploy/10-berth.conflist /etc/cni/net.d/
  sysctl -qw net.ipv4.ip_forward=1
}
installed() {
  network
  cp deploy/berth.service /etc/systemd/system/
  systemctl start berth
}
stopped() {
  systemctl stop berth
}
pod() {
  echo '{ "metadata": { "name": "hello", "namespace": "default", "uid": "hello-1" }, "log_directory": "/var/log/pods/hello" }' > /tmp/pod.json
  echo '{ "metadata": { "name": "web" }, "image": { "image": "${image}" }, "command": ["sleep", "1000"], "log_path": "web.log" }' > /tmp/container.json
  crictl pull ${image}
  pod=$(crictl runp /tmp/pod.json)
  container=$(crictl create "$pod" /tmp/container.json /tmp/pod.json)
  crictl start "$container"
}
kubelet() {
  mkdir -p /var/lib/kubelet "/etc/$1/certs.d/example.com"
  echo 'server = "https://example.com"' > "/etc/$1/certs.d/example.com/hosts.toml"
  echo "containerRuntimeEndpoint: unix:///var/run/$1/$1.sock" > /var/lib/kubelet/instance-config.yaml
}
`;

const cleanUp = 'if systemctl status berth; then crictl rmp --all --force; systemctl stop berth; fi';

let directory: string;
let registry: MiniRegistry;

before(async () => {
  if (lack !== false) return;
  directory = mkdtempSync('/var/tmp/berth-docs-');
  hideMachine();
  registry = await serveRegistry(new Map([['library/busybox:1.36', await buildSampleImage()]]));
  writeRegistrySettings();
});
after(async () => {
  if (lack !== false) return;
  registry.stop();
  await removeCgroup(cgroup);
  rmSync(directory, { recursive: true, force: true });
});

// Pages with the same assumption share a daemon: each start takes a second or more.
for (const [assumption, group] of Map.groupBy(pages, ({ path }) => assumptions[path] ?? runningPod)) {
  test(`the commands of ${group.map(({ path }) => path).join(', ')} run as written`, { skip: lack, timeout: 2 * pageTimeoutMs }, async () => {
    writeSettings();
    const { code, output } = await run(scriptOf(assumption, group)).finally(() => run(cleanUp));
    assert.equal(code, 0, output.slice(-8000));
    const outputs = output.split(/^=== (.*)\n/m);
    for (const { path, blocks } of group) {
      for (const [index, block] of blocks.entries()) {
        if (block.kind === 'text output') assertShape(block, outputs[outputs.indexOf(nameOf(path, index - 1)) + 1] ?? '');
      }
    }
  });
}

/** Replaces the directories that the commands change by the test's own. Sets up programs and a copy of /etc. */
function hideMachine(): void {
  const own = (name: string, at: string) => {
    mkdirSync(join(directory, name));
    execFileSync('mount', ['--bind', join(directory, name), at]);
  };
  mkdirSync(checkout);
  execFileSync('mount', ['--bind', root, checkout]);
  execFileSync('mount', ['-o', 'remount,bind,ro', checkout]);
  execFileSync('cp', ['-a', '/etc', join(directory, 'etc')]);
  execFileSync('mount', ['--bind', join(directory, 'etc'), '/etc']);
  for (const path of ['/tmp', '/usr/local', '/var/lib', '/var/log']) own(path.replaceAll('/', '-'), path);
  mkdirSync('/usr/local/bin');
  mkdirSync('/etc/systemd/system', { recursive: true });
  const programs = [
    join(checkout, relative(root, crictl ?? '')),
    ...['systemctl', 'journalctl'].map((name) => `${checkout}/test/root/support/systemd/${name}`),
  ];
  for (const path of programs) symlinkSync(path, `/usr/local/bin/${path.slice(dirname(path).length + 1)}`);
}

/** For berth, and for skopeo. */
function writeRegistrySettings(): void {
  mkdirSync('/etc/containers', { recursive: true });
  writeFileSync('/etc/containers/policy.json', '{ "default": [{ "type": "insecureAcceptAnything" }] }');
  writeFileSync(
    '/etc/containers/registries.conf',
    `[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "${registry.host}"\ninsecure = true\n`,
  );
}

/** Before each page: the checkout, the settings, and nothing of the page before. */
function writeSettings(): void {
  for (const path of ['/etc/berth', '/etc/cni', '/etc/systemd/system/berth.service', '/var/lib/berth', '/usr/local/lib', '/usr/local/bin/berth'])
    rmSync(path, { recursive: true, force: true });
  mkdirSync('/usr/local/lib');
  symlinkSync(checkout, '/usr/local/lib/berth');
  mkdirSync('/etc/berth/certs.d/docker.io', { recursive: true });
  writeFileSync('/etc/berth/certs.d/docker.io/hosts.toml', `server = "http://${registry.host}"\n`);
  writeFileSync('/etc/berth/config.toml', `cgroup_parent = "/${cgroup}"\nmetrics = "127.0.0.1:9418"\nmetrics_containers = true\n`);
  writeFileSync('/etc/crictl.yaml', 'runtime-endpoint: unix:///run/berth/berth.sock\nimage-endpoint: unix:///run/berth/berth.sock\n');
}

/** The blocks in order, in one shell, as a reader runs them. The words CONTAINER and POD are replaced by what they stand for. */
function scriptOf({ prepare, verify = '' }: Assumption, group: readonly Page[]): string {
  const commands = group.flatMap(({ path, blocks }) =>
    blocks.map(({ kind, text }, index) => (kind === 'sh root' ? `echo '=== ${nameOf(path, index)}'\n${text}` : '')),
  );
  const replaced = commands.join('\n').replaceAll(/(?<![$\w])(POD|CONTAINER)(?![\w=])/g, (word) => `$${word.toLowerCase()}`);
  return [functions, prepare, replaced, `echo '=== verify'`, verify].join('\n');
}

function nameOf(path: string, index: number): string {
  return `${path}, block ${index + 1}`;
}

/** Stops at the first command that fails, and names it. */
function run(script: string): Promise<{ readonly code: number | null; readonly output: string }> {
  const prelude = `set -eEo pipefail; trap 'echo "failed: $BASH_COMMAND" >&2' ERR; exec 2>&1`;
  const child = spawn('bash', ['-c', `${prelude}\n${script}`], {
    cwd: '/',
    env: { PATH: '/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/tmp' },
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: pageTimeoutMs,
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  return new Promise((settle) => child.once('exit', (code) => settle({ code, output })));
}

/** Each line that the page shows is in the output, in this order. A word with digits stands for any such word, `…` for the rest of a word or line. */
function assertShape(shown: Block, real: string): void {
  let rest = real.split('\n');
  for (const line of shown.text.split('\n').filter((text) => text.trim() !== '')) {
    const pattern = new RegExp(`^${line.trim().split(/\s+/).map(patternOf).join('\\s+')}$`);
    const index = rest.findIndex((each) => pattern.test(each.trim()));
    assert.ok(index >= 0, `the page shows ${JSON.stringify(line)}, which is not in this place in:\n${real}`);
    rest = rest.slice(index + 1);
  }
}

function patternOf(word: string): string {
  if (word === '…') return '.*';
  if (/\d/.test(word)) return '\\S*\\d\\S*';
  return word.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll('…', '.*');
}
