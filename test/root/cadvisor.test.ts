/**
 * Runs the kubelet's cAdvisor library with a daemon that serves CRI-O's API for it: the metrics of pods, and what remains after their removal.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { after, before, test } from 'node:test';
import { prepareCadvisorClient } from '../cadvisor-client/prepare.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, findLeftovers, isBuilt, runBerth, serveArguments, startDaemon, type Workspace } from './support/daemon.ts';
import { detailsOf, eventually, exec, type Pod, pullSample, runContainer, runPod } from './support/pods.ts';

/** This path is compiled into cAdvisor. */
const socket = '/var/run/crio/crio.sock';
const flags = { metrics: '127.0.0.1:19419' };
const lack = isBuilt ? whyNoCadvisor() : 'berth is not built';
const options = { skip: lack, timeout: 180_000 };
if (lack === false) enterIsolation();

function whyNoCadvisor(): string | false {
  try {
    prepareCadvisorClient();
    return false;
  } catch (error) {
    return `no cAdvisor: ${error instanceof Error ? error.message.split('\n')[0] : error}`;
  }
}

let workspace: Workspace;
let daemon: Daemon;
let image: string;
let cadvisor: ChildProcess;
let answers: Interface;

before(async () => {
  if (lack !== false) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
});
after(async () => {
  if (lack !== false) return;
  if (cadvisor !== undefined) {
    cadvisor.stdin?.end();
    await once(cadvisor, 'exit');
  }
  await daemon.end('SIGTERM');
  await workspace.remove();
});

async function startCadvisor(): Promise<void> {
  cadvisor = spawn(prepareCadvisorClient(), ['-cgroup', `/${workspace.cgroup}`], { stdio: ['pipe', 'pipe', 'ignore'] });
  answers = createInterface({ input: cadvisor.stdout as NodeJS.ReadableStream });
  const [first] = await once(answers, 'line');
  assert.equal(first, 'ready');
}

type Series = { readonly name: string; readonly labels: Readonly<Record<string, string>>; readonly value: number };

async function scrape(): Promise<Series[]> {
  const lines: string[] = [];
  const done = new Promise<void>((resolve) => {
    const take = (line: string) => {
      lines.push(line);
      if (line !== '# end') return;
      answers.off('line', take);
      resolve();
    };
    answers.on('line', take);
  });
  cadvisor.stdin?.write('\n');
  await done;
  return parseSeries(lines);
}

function parseSeries(lines: readonly string[]): Series[] {
  return lines.flatMap((line) => {
    const [, name = '', labels = '', value = ''] = /^(\w+)\{(.*)\} (\S+)/.exec(line) ?? [];
    const pairs = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]));
    return name === '' ? [] : [{ name, labels: pairs, value: Number(value) }];
  });
}

/** Returns the series with this name of a pod and container. */
async function seriesOf(name: string, pod: string, container: string): Promise<Series[]> {
  return (await scrape()).filter((each) => each.name === name && each.labels['pod'] === pod && each.labels['container'] === container);
}

const podParent = (name: string) => `/${workspace.cgroup}/pods/${name}`;
const pod = (name: string, linux: object = {}): Promise<Pod> =>
  runPod(daemon.client, name, workspace.directory, {
    labels: { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'test', 'io.kubernetes.pod.uid': name },
    linux: { cgroup_parent: podParent(name), ...linux },
  });
const container = (sandbox: Pod, name: string): Promise<string> =>
  runContainer(daemon.client, sandbox, image, name, 'trap exit TERM; while :; do sleep 1; done', {
    labels: {
      'io.kubernetes.pod.name': String((sandbox.config['metadata'] as { name: string }).name),
      'io.kubernetes.pod.namespace': 'test',
      'io.kubernetes.container.name': name,
    },
  });
const sentBytes = async (name: string) =>
  (await seriesOf('container_network_transmit_bytes_total', name, 'POD')).find(({ labels }) => labels['interface'] === 'eth0')?.value;
/** Sends to a port of the gateway on which nobody listens. */
const sendPacket = (id: string) => exec(daemon.client, id, 'sh', '-c', 'nc -w 1 10.77.0.1 9 </dev/null; true');

test('by default the CRI-O API is not served, and a cgroup has the name of its container', options, async () => {
  const plain = await pod('plain');
  const id = await container(plain, 'main');
  assert.equal(existsSync(socket), false);
  assert.equal((await detailsOf(daemon.client, id)).cgroupPath, `${podParent('plain')}/${id}`);
  await daemon.end('SIGTERM');
  appendFileSync(join(workspace.directory, 'config.toml'), `cadvisor_socket = "${socket}"\nmetrics_containers = true\n`);
  daemon = await startDaemon(workspace, flags);
  // Containers with the other cgroup name keep running and can be removed.
  assert.equal(await exec(daemon.client, id, 'echo', 'here'), 'here\n');
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: plain.id });
  assert.deepEqual((await findLeftovers(workspace, daemon))['sandboxes'], []);
});

test('cAdvisor reports labels and network of pods that were started before it or later', options, async () => {
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  const early = await pod('early');
  const earlyMain = await container(early, 'main');
  await startCadvisor();
  const late = await pod('late');
  const lateMain = await container(late, 'main');
  for (const [name, id] of [
    ['early', earlyMain],
    ['late', lateMain],
  ] as const) {
    await eventually(`cAdvisor reports ${name}`, async () =>
      (await seriesOf('container_memory_working_set_bytes', name, 'main')).some(({ value }) => value > 0),
    );
    const [series] = await seriesOf('container_memory_working_set_bytes', name, 'main');
    const cgroupPath = `${podParent(name)}/crio-${id}.scope`;
    assert.deepEqual(series?.labels, { container: 'main', id: cgroupPath, image, name: id, namespace: 'test', pod: name });
    assert.equal((await detailsOf(daemon.client, id)).cgroupPath, cgroupPath);
    await sendPacket(id);
    await eventually(`${name} has a network`, async () => ((await sentBytes(name)) ?? 0) > 0);
    assert.deepEqual(await seriesOf('container_network_transmit_bytes_total', name, 'main'), [], 'reported once per pod');
  }
});

test("berth's series of a container equal cAdvisor's in names, labels and values", options, async () => {
  const ofContainer = (series: readonly Series[]) => series.filter(({ labels }) => labels['pod'] === 'early' && labels['container'] === 'main');
  const keyOf = ({ name, labels }: Series) => `${name} ${JSON.stringify(Object.entries(labels).sort())}`;
  const text = await (await fetch(`http://${flags.metrics}/metrics`)).text();
  const own = new Map(ofContainer(parseSeries(text.split('\n'))).map((each) => [keyOf(each), each.value]));
  const theirs = ofContainer(await scrape());
  const missing = theirs.filter((each) => !own.has(keyOf(each))).map(({ name }) => name);
  assert.deepEqual(missing, ['container_health_state'], 'health checks exist only in Docker');
  assert.ok(theirs.length > 25, `${theirs.length} series`);
  for (const each of theirs.filter(({ name }) => name !== 'container_health_state')) {
    // The two read the values at different times.
    const tolerance = /^container_memory_(?!fail)/.test(each.name) ? 2 ** 20 : each.name === 'container_memory_failures_total' ? 2000 : 2;
    const value = own.get(keyOf(each)) ?? Number.NaN;
    assert.ok(Math.abs(value - each.value) <= tolerance, `${keyOf(each)}: ${value} instead of ${each.value}`);
  }
  const { status, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8' });
  // Exit code 3: cAdvisor's names violate some style rules.
  assert.ok(status === 0 || status === 3, stderr);
});

test("a pod's network is reported across restarts of its containers and of the daemon", options, async () => {
  const changing = await pod('changing');
  const first = await container(changing, 'first');
  await sendPacket(first);
  await eventually('the network is reported', async () => ((await sentBytes('changing')) ?? 0) > 0);
  await daemon.client.call('StopContainer', { container_id: first, timeout: '0' });
  await daemon.end('SIGKILL');
  daemon = await startDaemon(workspace, flags);
  const second = await container(changing, 'second');
  const before = (await sentBytes('changing')) ?? 0;
  await sendPacket(second);
  await eventually('the counter continues', async () => ((await sentBytes('changing')) ?? 0) > before);
});

test('a pod with the host network has no network metrics', options, async () => {
  const onHost = await pod('on-host', { security_context: { namespace_options: { network: 'NODE' } } });
  await container(onHost, 'main');
  await eventually('the pod is reported', async () => (await seriesOf('container_last_seen', 'on-host', 'main')).length > 0);
  assert.deepEqual(await seriesOf('container_network_transmit_bytes_total', 'on-host', 'POD'), []);
});

test('pods that are removed leave no cgroup', options, async () => {
  const { items } = await daemon.client.call<{ items: { id: string }[] }>('ListPodSandbox', {});
  for (const { id } of items) await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: id });
  for (const name of ['early', 'late', 'changing', 'on-host']) {
    const roots = ['/sys/fs/cgroup', '/sys/fs/cgroup/memory'].map((root) => `${root}${podParent(name)}`).filter((path) => existsSync(path));
    for (const path of roots) assert.equal(statSync(path).nlink, 2, `${path} has no child cgroups`);
  }
});

test('the daemon fails to start if CRI-O already listens on the socket', options, async () => {
  const other = join(workspace.directory, 'other');
  mkdirSync(other);
  const config = join(other, 'config.toml');
  writeFileSync(config, `cadvisor_socket = "${socket}"\n`);
  const flags = serveArguments({ ...workspace, state: other, root: join(other, 'root'), socket: join(other, 'berth.sock') });
  const { code, output } = await runBerth([...flags, '--config', config]);
  assert.notEqual(code, 0);
  assert.match(output, /listen on \/var\/run\/crio\/crio\.sock: another daemon is listening there/);
});
