/**
 * Pod networks with Debian's CNI plugins, in separate network and mount namespaces.
 *
 * Resources that the plugins share between pods (iptables chains, the bridge) may stay; everything that belongs to a pod must be removed.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type CniNetwork, createNetwork } from '../../src/cni/network.ts';
import type { NetworkAttachment } from '../../src/engine/state/spec.ts';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const pluginDir = '/usr/lib/cni';
const never = new AbortController().signal;

function run(command: string, ...args: readonly string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Mounts empty directories where plugins and ip(8) write. They disappear with the mount namespace. */
before(() => {
  const addresses = (JSON.parse(run('ip', '-json', 'address')) as { addr_info: unknown[] }[]).flatMap((link) => link.addr_info);
  assert.deepEqual(addresses, [], 'needs network and mount namespaces of its own: unshare --net --mount');
  for (const dir of ['/run', '/var/lib']) run('mount', '-t', 'tmpfs', 'cni-test', dir);
  run('ip', 'link', 'set', 'lo', 'up');
});

type Node = { readonly confDir: string; readonly binDir: string; readonly cacheDir: string; readonly open: () => Promise<CniNetwork> };

function nodeWith(t: TestContext, conf: object | string): Node {
  const dir = mkdtempSync('/run/node-');
  const [confDir, binDir, cacheDir] = [join(dir, 'net.d'), join(dir, 'bin'), join(dir, 'cache')];
  mkdirSync(confDir);
  mkdirSync(binDir);
  writeFileSync(join(confDir, '10-net.conflist'), typeof conf === 'string' ? conf : JSON.stringify(conf));
  const open = async () => {
    const network = await createNetwork({ confDir, binDirs: [binDir, pluginDir], cacheDir, addTimeoutMs: 60_000, delTimeoutMs: 60_000 });
    // A failed test must not affect the next one.
    t.after(async () => {
      for (const id of await network.attachedSandboxIds()) await network.remove(id, never).catch(() => {});
      network.close();
    });
    return network;
  };
  return { confDir, binDir, cacheDir, open };
}

function sandbox(t: TestContext, sandboxId: string, overrides: Partial<NetworkAttachment> = {}): NetworkAttachment {
  run('ip', 'netns', 'add', sandboxId);
  t.after(() => existsSync(`/run/netns/${sandboxId}`) && run('ip', 'netns', 'delete', sandboxId));
  const metadata = { name: sandboxId, namespace: 'test', uid: sandboxId, attempt: 0 };
  return { sandboxId, metadata, netnsPath: `/run/netns/${sandboxId}`, portMappings: [], annotations: {}, cgroupParent: '', ...overrides };
}

/** Starts a server in a sandbox that sends `hello`, and waits until it listens. */
async function serve(t: TestContext, sandboxId: string, port: number): Promise<void> {
  const server = spawn('ip', ['netns', 'exec', sandboxId, 'busybox', 'nc', '-ll', '-p', String(port), '-e', '/bin/echo', 'hello'], {
    stdio: 'ignore',
  });
  t.after(() => ended(server));
  const isListening = () =>
    run('ip', 'netns', 'exec', sandboxId, 'cat', '/proc/net/tcp', '/proc/net/tcp6').includes(`:${port.toString(16).toUpperCase().padStart(4, '0')} `);
  while (!isListening()) await pause();
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await exit;
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 20));
}

function ask(address: string, port: number, prefix: readonly string[] = []): string {
  const client = ['busybox', 'nc', '-w', '5', address, String(port)];
  return run('env', ...prefix, ...client).trim();
}

function interfaces(): readonly string[] {
  return (JSON.parse(run('ip', '-json', 'link')) as { ifname: string }[]).map((link) => link.ifname).sort();
}

/** Returns iptables rules and interfaces, without counters and comments. */
function state(): string {
  const rules = run('iptables-save')
    .split('\n')
    .filter((line) => !/^[#:]/.test(line) || line.startsWith(':CNI-'));
  return [...interfaces(), ...rules.map((line) => line.replace(/\[\d+:\d+\]/, ''))].join('\n');
}

/** Returns the state without sandboxes, after the plugins have created what all sandboxes share: the bridge and common chains. */
async function stateWithoutSandboxes(t: TestContext): Promise<string> {
  const network = await nodeWith(t, everyPlugin).open();
  await network.add(sandbox(t, 'warm', exposed), never);
  await network.remove('warm', never);
  run('ip', 'netns', 'delete', 'warm');
  return state();
}

function leases(network: string): readonly string[] {
  const dir = `/var/lib/cni/networks/${network}`;
  return existsSync(dir) ? readdirSync(dir).filter((name) => /^\d+\./.test(name)) : [];
}

const tuned = { 'net.ipv4.conf.eth0.arp_filter': '1' };

/** All plugins that berth supports. */
const everyPlugin = {
  cniVersion: '1.0.0',
  name: 'every',
  plugins: [
    {
      type: 'bridge',
      bridge: 'every0',
      isGateway: true,
      ipMasq: true,
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.207.0.0/24' }]], routes: [{ dst: '0.0.0.0/0' }] },
    },
    { type: 'tuning', sysctl: tuned },
    { type: 'portmap', capabilities: { portMappings: true } },
    { type: 'firewall' },
    { type: 'bandwidth', capabilities: { bandwidth: true } },
    { type: 'loopback' },
  ],
};

const exposed = {
  portMappings: [{ protocol: 'tcp', containerPort: 80, hostPort: 8080, hostIp: '' }],
  annotations: { 'kubernetes.io/ingress-bandwidth': '50M', 'kubernetes.io/egress-bandwidth': '50M' },
} as const;

test('with all plugins, sandboxes reach each other and a host port is reachable; DEL leaves nothing behind', async (t) => {
  const empty = await stateWithoutSandboxes(t);
  const network = await nodeWith(t, everyPlugin).open();
  assert.equal(network.notReadyReason(), null);
  const first = await network.add(sandbox(t, 'first', { annotations: exposed.annotations }), never);
  const alone = state();

  const second = await network.add(sandbox(t, 'second', exposed), never);
  const [from = '', to = ''] = first.ips.concat(second.ips);
  assert.match(`${from} ${to}`, /^10\.207\.0\.\d+ 10\.207\.0\.\d+$/);
  await serve(t, 'second', 80);
  assert.equal(ask(to, 80, ['ip', 'netns', 'exec', 'first']), 'hello');
  assert.equal(ask('10.207.0.1', 8080), 'hello');
  assert.equal(ask('127.0.0.1', 8080), 'hello');
  assert.match(run('tc', 'qdisc'), /tbf .* rate 50Mbit/);
  assert.equal(run('ip', 'netns', 'exec', 'second', 'cat', '/proc/sys/net/ipv4/conf/eth0/arp_filter').trim(), '1');
  // Not for `second`: Debian's portmap searches for IPv6 chains even if the sandbox has no IPv6 address.
  await network.check('first', never);

  await network.remove('second', never);
  assert.equal(state(), alone);
  assert.deepEqual(leases('every'), [from]);
  assert.throws(() => run('ip', 'netns', 'exec', 'second', 'ip', 'link', 'show', 'eth0'));
  await network.remove('second', never);
  await network.remove('first', never);
  assert.deepEqual(leases('every'), []);
  assert.equal(state(), empty);
  assert.deepEqual(await network.attachedSandboxIds(), []);
});

test('the sample configuration works with the plugins of the distribution', async (t) => {
  const conf = readFileSync(join(repository, 'deploy/10-berth.conflist'), 'utf8');
  const network = await nodeWith(t, conf).open();
  const { ips } = await network.add(sandbox(t, 'default', exposed), never);
  assert.deepEqual(ips, ['10.206.0.2']);
  await serve(t, 'default', 80);
  assert.equal(ask('127.0.0.1', 8080), 'hello');
  // A pod reaches itself through its host port (hairpin).
  assert.equal(ask('10.206.0.1', 8080, ['ip', 'netns', 'exec', 'default']), 'hello');
  await network.remove('default', never);
  assert.deepEqual(leases('berth'), []);
});

test('check() detects a missing interface', async (t) => {
  const network = await nodeWith(t, everyPlugin).open();
  await network.add(sandbox(t, 'checked'), never);
  run('ip', 'netns', 'exec', 'checked', 'ip', 'link', 'delete', 'eth0');
  await assert.rejects(network.check('checked', never), { message: /^CNI plugin bridge \(network every\): CHECK failed: / });
  await network.remove('checked', never);
  assert.deepEqual(leases('every'), []);
});

test('remove() releases the address if the namespace is gone', async (t) => {
  const network = await nodeWith(t, everyPlugin).open();
  await network.add(sandbox(t, 'gone', exposed), never);
  run('ip', 'netns', 'delete', 'gone');
  await network.remove('gone', never);
  assert.deepEqual(leases('every'), []);
  assert.doesNotMatch(run('iptables-save'), /dport 8080/);
  assert.deepEqual(
    interfaces().filter((name) => /^(veth|bwp)/.test(name)),
    [],
  );
});

test('an ADD that fails in the last plugin leaves no interface, rule or lease', async (t) => {
  const taken = { ...everyPlugin, plugins: [...everyPlugin.plugins.slice(0, 5), { type: 'tuning', sysctl: { 'net.no.such.key': '1' } }] };
  const network = await nodeWith(t, taken).open();
  const empty = await stateWithoutSandboxes(t);
  await assert.rejects(network.add(sandbox(t, 'failing', exposed), never), {
    message: /^CNI plugin tuning \(network every\): ADD failed: .*net\/no\/such\/key/,
  });
  assert.equal(state(), empty);
  assert.deepEqual(leases('every'), []);
});

test('a full address range is reported with the message of the IPAM plugin', async (t) => {
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.208.0.0/30' }]] };
  const network = await nodeWith(t, { cniVersion: '1.0.0', name: 'tiny', plugins: [{ type: 'bridge', bridge: 'tiny0', ipam }] }).open();
  await network.add(sandbox(t, 'fits'), never);
  await assert.rejects(network.add(sandbox(t, 'full'), never), {
    message: /^CNI plugin bridge \(network tiny\): ADD failed: .*no IP addresses available/,
  });
  await network.remove('fits', never);
  assert.deepEqual(leases('tiny'), []);
});

test('the next daemon can detach a sandbox whose ADD was interrupted by SIGKILL', async (t) => {
  const stalled = { ...everyPlugin, plugins: [...everyPlugin.plugins.slice(0, 5), { type: 'stall' }] };
  const node = nodeWith(t, stalled);
  const pidFile = join(node.binDir, 'stall.pid');
  const answers = `VERSION) echo '{"supportedVersions":["1.0.0"]}';;\nADD) echo $$ > ${pidFile}.new; mv ${pidFile}.new ${pidFile}; exec sleep 1000;;`;
  writeFileSync(join(node.binDir, 'stall'), `#!/bin/sh\ncase $CNI_COMMAND in\n${answers}\nesac\n`);
  chmodSync(join(node.binDir, 'stall'), 0o755);
  const empty = await stateWithoutSandboxes(t);
  const request = sandbox(t, 'crashed', exposed);
  const program = `
    import { createNetwork } from '${repository}/src/cni/network.ts';
    const network = await createNetwork({ confDir: '${node.confDir}', binDirs: ['${node.binDir}', '${pluginDir}'], cacheDir: '${node.cacheDir}', addTimeoutMs: 60000, delTimeoutMs: 60000 });
    await network.add(${JSON.stringify(request)}, new AbortController().signal);`;
  const daemon = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'inherit' });
  while (!existsSync(pidFile)) await pause();
  await ended(daemon);
  process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
  assert.equal(leases('every').length, 1);

  const network = await node.open();
  assert.deepEqual(await network.attachedSandboxIds(), ['crashed']);
  await network.remove('crashed', never);
  assert.equal(state(), empty);
  assert.deepEqual(leases('every'), []);
});

test('sandboxes are detached with the old configuration after the configuration directory has changed', async (t) => {
  const node = nodeWith(t, everyPlugin);
  const request = sandbox(t, 'moved', exposed);
  const network = await node.open();
  const empty = await stateWithoutSandboxes(t);
  await network.add(request, never);
  rmSync(join(node.confDir, '10-net.conflist'));
  cpSync(join(repository, 'deploy/10-berth.conflist'), join(node.confDir, '10-other.conflist'));
  await network.remove('moved', never);
  assert.equal(state(), empty);
  assert.deepEqual(leases('every'), []);
  assert.deepEqual((await network.add(request, never)).ips.length, 1);
  assert.equal(leases('berth').length, 1);
  await network.remove('moved', never);
  assert.deepEqual(leases('berth'), []);
});

test('the queue of a bandwidth annotation holds a tenth of a second, also below 16 Mbit/s', async (t) => {
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.89.7.0/24' }]] };
  const plugins = [
    { type: 'bridge', bridge: 'slow0', ipam },
    { type: 'bandwidth', capabilities: { bandwidth: true } },
  ];
  const network = await nodeWith(t, { cniVersion: '1.0.0', name: 'slow', plugins }).open();
  for (const rateMbit of [2, 100]) {
    await network.add(sandbox(t, `slow${rateMbit}`, { annotations: { 'kubernetes.io/ingress-bandwidth': `${rateMbit}M` } }), never);
    type Queue = { readonly kind: string; readonly options: { readonly rate: number; readonly burst: number; readonly lat: number } };
    const queues = JSON.parse(run('tc', '-json', 'qdisc', 'show')) as Queue[];
    const queue = queues.find(({ kind, options }) => kind === 'tbf' && options.rate === (rateMbit * 1e6) / 8);
    assert.ok(queue, `tbf of ${rateMbit} Mbit/s in ${JSON.stringify(queues)}`);
    const { rate, burst } = queue.options;
    // The kernel rounds to ticks. The constant 2^32 - 1 made 2 Mbit/s wrap to another burst.
    assert.ok(burst / rate > 0.09 && burst / rate < 0.11, `${burst} bytes at ${rate} bytes/s`);
    await network.remove(`slow${rateMbit}`, never);
  }
});

test('plugins beside the list run with the real plugins', async (t) => {
  const ipam = { type: 'host-local', ranges: [[{ subnet: '10.89.8.0/24' }]] };
  const node = nodeWith(t, { cniVersion: '1.0.0', name: 'beside' });
  mkdirSync(join(node.confDir, 'beside'));
  writeFileSync(join(node.confDir, 'beside/10.conf'), JSON.stringify({ type: 'bridge', bridge: 'beside0', ipam }));
  writeFileSync(join(node.confDir, 'beside/20.conf'), JSON.stringify({ type: 'tuning', sysctl: { 'net.core.somaxconn': '777' } }));
  const network = await node.open();
  const { ips } = await network.add(sandbox(t, 'beside'), never);
  assert.match(ips.join(), /^10\.89\.8\./);
  assert.equal(run('ip', 'netns', 'exec', 'beside', 'cat', '/proc/sys/net/core/somaxconn').trim(), '777');
  await network.remove('beside', never);
  assert.deepEqual(leases('beside'), []);
});
