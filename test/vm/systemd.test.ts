/**
 * The real daemon below systemd, with cgroup v2: each container a scope whose limits hold by effect, through systemctl daemon-reload, restarts of the
 * daemon, of D-Bus and of systemd itself. Skipped where systemd is not the first process.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from '../root/support/daemon.ts';
import { detailsOf, eventually, exec, type Pod, pullSample, runContainer, runPod, statusOf } from '../root/support/pods.ts';

const isHere = isBuilt && existsSync('/run/systemd/system') && existsSync('/sys/fs/cgroup/cgroup.controllers');
const options = { skip: !isHere && 'needs a built berth, systemd and cgroup v2', timeout: 600_000 };

const root = '/sys/fs/cgroup';
const podSlice = 'berthtest-burstable-pod1_a.slice';
const podPath = `/berthtest.slice/berthtest-burstable.slice/${podSlice}`;
const MiB = 1 << 20;

let workspace: Workspace;
let daemon: Daemon;
let image: string;
let pods = 0;

before(async () => {
  if (!isHere) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
});
after(async () => {
  if (!isHere) return;
  await daemon.end('SIGTERM');
  await workspace.remove();
  systemctl('stop', 'berthtest.slice');
});
afterEach(async () => {
  if (!isHere) return;
  const { items } = await daemon.client.call<{ items: { id: string }[] }>('ListPodSandbox', {});
  for (const { id: pod_sandbox_id } of items) await daemon.client.call('RemovePodSandbox', { pod_sandbox_id });
  assert.deepEqual(scopes(), [], 'no scope is left');
  assert.deepEqual(below(podPath), [], 'no cgroup is left');
});

const systemctl = (...args: string[]) => execFileSync('systemctl', args, { encoding: 'utf8' }).trim();
const scopes = () => systemctl('list-units', '--all', '--plain', '--no-legend', 'cri-berth-*').split('\n').filter(Boolean);
const below = (path: string) =>
  existsSync(root + path) ? readdirSync(root + path, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : [])) : [];
const value = (path: string, file: string) => readFileSync(join(root, path, file), 'utf8').trim();

/** @param linux of the sandbox. */
function pod(linux: Message = {}): Promise<Pod> {
  pods += 1;
  const security_context = { namespace_options: { network: 'NODE', pid: 'CONTAINER' } };
  return runPod(daemon.client, `pod${pods}`, workspace.directory, { linux: { cgroup_parent: podPath, security_context, ...linux } });
}

async function container(script: string, resources: Message = {}): Promise<{ id: string; path: string; scope: string }> {
  const id = await runContainer(daemon.client, await pod(), image, 'main', script, { linux: { resources } });
  return { id, path: `${podPath}/cri-berth-${id}.scope`, scope: `cri-berth-${id}.scope` };
}

async function ended(id: string) {
  await eventually(`${id} ends`, async () => (await statusOf(daemon.client, id)).state === 'CONTAINER_EXITED');
  const { exit_code, reason } = await statusOf(daemon.client, id);
  return [exit_code, reason];
}

const idle = 'trap "exit 0" TERM; while :; do sleep 1; done';
const hog = 'x=a; while :; do x=$x$x$x; done';

/** One of each kind: as a property would round it, as no property can say it, and the others. */
const limits = {
  cpu_shares: '512',
  cpu_quota: '12345',
  cpu_period: '50000',
  cpuset_cpus: '0',
  cpuset_mems: '0',
  memory_limit_in_bytes: String(64 * MiB),
  memory_swap_limit_in_bytes: String(64 * MiB),
  unified: { 'memory.oom.group': '1', 'memory.low': String(8 * MiB), 'memory.high': String(60 * MiB), 'pids.max': '77' },
};
const values = {
  'cpu.weight': '59',
  'cpu.max': '12345 50000',
  'cpuset.cpus': '0',
  'cpuset.mems': '0',
  'memory.max': String(64 * MiB),
  'memory.swap.max': '0',
  'memory.low': String(8 * MiB),
  'memory.high': String(60 * MiB),
  'memory.oom.group': '1',
  'pids.max': '77',
};
/** What systemd may hold in its own way while no daemon puts it right. */
const inexact = new Set(['cpu.max', 'memory.oom.group']);

function valuesOf(path: string, files: readonly string[] = Object.keys(values)): Record<string, string> {
  return Object.fromEntries(files.map((file) => [file, existsSync(join(root, path, file)) ? value(path, file) : 'no such file']));
}

/** Reads a disk of the node through a device node of the container's own making: only the device policy is against it. */
async function readDisk(id: string): Promise<string> {
  const { rdev } = statSync('/dev/vda');
  const [major, minor] = [(rdev >> 8) & 0xfff, rdev & 0xff];
  return exec(
    daemon.client,
    id,
    'sh',
    '-c',
    `[ -e /tmp/disk ] || mknod /tmp/disk b ${major} ${minor}; dd if=/tmp/disk of=/dev/null bs=512 count=1 2>&1; true`,
  );
}

test('RuntimeConfig answers the driver that was found', options, async () => {
  assert.deepEqual(await daemon.client.call('RuntimeConfig', {}), { linux: { cgroup_driver: 'SYSTEMD' } });
});

test('a container is a delegated scope in the slice that the kubelet names', options, async () => {
  const { id, path, scope } = await container(idle);
  const { pid, cgroupPath } = await detailsOf(daemon.client, id);
  assert.equal(cgroupPath, path);
  assert.equal(readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim(), `0::${path}`);
  const shown = systemctl('show', scope, '-p', 'Slice,Delegate,ActiveState,DefaultDependencies,ControlGroup,TasksMax');
  assert.deepEqual(shown.split('\n').sort(), [
    'ActiveState=active',
    `ControlGroup=${path}`,
    'DefaultDependencies=no',
    'Delegate=yes',
    `Slice=${podSlice}`,
    'TasksMax=infinity',
  ]);
});

test('a sandbox without a parent lies in system.slice, and one whose parent is no slice is refused', options, async () => {
  const id = await runContainer(daemon.client, await pod({ cgroup_parent: '' }), image, 'main', idle);
  assert.equal((await detailsOf(daemon.client, id)).cgroupPath, `/system.slice/cri-berth-${id}.scope`);
  await assert.rejects(pod({ cgroup_parent: '/kubepods/burstable/pod1' }), /is not a systemd slice.*cgroupDriver/);
});

test('limits hold by effect: throttled, forks refused, killed for want of memory', options, async () => {
  const busy = await container('while :; do :; done', { cpu_quota: '10000', cpu_period: '100000' });
  await eventually('it is throttled', () => Number(/nr_throttled (\d+)/.exec(value(busy.path, 'cpu.stat'))?.[1]) > 3);
  const forking = await container(idle, { unified: { 'pids.max': '5' } });
  await assert.rejects(
    exec(daemon.client, forking.id, 'sh', '-c', 'for i in 1 2 3 4 5 6 7; do sleep 5 & done'),
    /fork|Resource temporarily unavailable/,
  );
  const memory = { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) };
  assert.deepEqual(await ended((await container(hog, memory)).id), [137, 'OOMKilled']);
  const parent = await container(`sh -c '${hog}'; exit 3`, memory);
  assert.deepEqual(await ended(parent.id), [3, 'OOMKilled']);
});

test('a reload of systemd leaves every limit and the device policy', options, async () => {
  const { id, path, scope } = await container(idle, limits);
  assert.deepEqual(valuesOf(path), values);
  assert.match(await readDisk(id), /Operation not permitted/);
  systemctl('daemon-reload');
  await eventually('all values are exact', () => JSON.stringify(valuesOf(path)) === JSON.stringify(values));
  assert.match(await readDisk(id), /Operation not permitted/);
  assert.equal(
    systemctl('show', scope, '-p', 'MemoryMax,CPUWeight,TasksMax').split('\n').sort().join(),
    `CPUWeight=59,MemoryMax=${64 * MiB},TasksMax=77`,
  );
});

test('an update holds through a reload, and one that fails changes nothing', options, async () => {
  const { id: container_id, path, scope } = await container(idle, limits);
  const change = { memory_limit_in_bytes: String(96 * MiB), memory_swap_limit_in_bytes: String(96 * MiB), cpu_quota: '33333', cpu_period: '100000' };
  await daemon.client.call('UpdateContainerResources', { container_id, linux: change });
  const changed = { ...values, 'cpu.max': '33333 100000', 'memory.max': String(96 * MiB) };
  assert.deepEqual(valuesOf(path), changed);
  assert.equal(systemctl('show', scope, '-p', 'MemoryMax'), `MemoryMax=${96 * MiB}`);
  const bad = { memory_limit_in_bytes: String(80 * MiB), memory_swap_limit_in_bytes: String(80 * MiB), unified: { 'memory.high': 'much' } };
  await assert.rejects(daemon.client.call('UpdateContainerResources', { container_id, linux: bad }), /memory\.high/);
  assert.deepEqual(valuesOf(path), changed);
  systemctl('daemon-reload');
  await eventually('all values are exact', () => JSON.stringify(valuesOf(path)) === JSON.stringify(changed));
});

test('a reload of systemd before the start leaves every limit', options, async () => {
  const sandbox = await pod();
  const config = { metadata: { name: 'main', attempt: 0 }, image: { image }, command: ['sh', '-c', idle], linux: { resources: limits } };
  const creation = { pod_sandbox_id: sandbox.id, config, sandbox_config: sandbox.config };
  const { container_id } = await daemon.client.call<{ container_id: string }>('CreateContainer', creation);
  const path = `${podPath}/cri-berth-${container_id}.scope`;
  systemctl('daemon-reload');
  await eventually('all values are exact', () => JSON.stringify(valuesOf(path)) === JSON.stringify(values));
  await daemon.client.call('StartContainer', { container_id });
  assert.deepEqual(valuesOf(path), values);
  assert.match(await readDisk(container_id), /Operation not permitted/);
});

test('an update before the start holds from the start', options, async () => {
  const sandbox = await pod();
  const config = { metadata: { name: 'main', attempt: 0 }, image: { image }, command: ['sh', '-c', idle], linux: { resources: limits } };
  const creation = { pod_sandbox_id: sandbox.id, config, sandbox_config: sandbox.config };
  const { container_id } = await daemon.client.call<{ container_id: string }>('CreateContainer', creation);
  await daemon.client.call('UpdateContainerResources', { container_id, linux: { cpu_shares: '1024' } });
  await daemon.client.call('StartContainer', { container_id });
  assert.deepEqual(valuesOf(`${podPath}/cri-berth-${container_id}.scope`), { ...values, 'cpu.weight': '100' });
});

test('limits and device policy hold while no daemon runs, and are exact again with the next', options, async () => {
  const { id, path, scope } = await container(idle, limits);
  const held = Object.keys(values).filter((file) => !inexact.has(file));
  await daemon.end('SIGKILL');
  systemctl('daemon-reload');
  assert.deepEqual(valuesOf(path, held), Object.fromEntries(Object.entries(values).filter(([file]) => !inexact.has(file))));
  daemon = await startDaemon(workspace);
  assert.deepEqual(valuesOf(path), values);
  assert.match(await readDisk(id), /Operation not permitted/);
  assert.equal(systemctl('show', scope, '-p', 'ActiveState'), 'ActiveState=active');
  assert.equal((await statusOf(daemon.client, id)).state, 'CONTAINER_RUNNING');
});

test('an OOM kill is told although the scope has gone with its last process, also when no daemon saw it', options, async () => {
  const memory = { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) };
  const { id, scope } = await container(`while [ ! -e /tmp/go ]; do sleep 1; done; ${hog}`, memory);
  await exec(daemon.client, id, 'touch', '/tmp/go');
  await daemon.end('SIGKILL');
  await eventually('the scope is gone', () => !scopes().some((line) => line.includes(scope)));
  daemon = await startDaemon(workspace);
  assert.deepEqual(await ended(id), [137, 'OOMKilled']);
});

test('containers that end at once are told as they ended, and leave no scope', options, async () => {
  const sandbox = await pod();
  const started = await Promise.all(
    [0, 1, 2, 3, 4, 5, 6, 7].map((code) => runContainer(daemon.client, sandbox, image, `quick${code}`, `exit ${code}`)),
  );
  const ends = await Promise.all(started.map(ended));
  assert.deepEqual(
    ends.map(([code]) => code),
    [0, 1, 2, 3, 4, 5, 6, 7],
  );
  await eventually('no scope is left', () => scopes().length === 0);
});

test('the reaper of a pod that shares its pids has a scope, too', options, async () => {
  const { id } = await pod({ security_context: { namespace_options: { network: 'NODE', pid: 'POD' } } });
  assert.equal(scopes().length, 1);
  assert.match(scopes()[0] ?? '', new RegExp(`^cri-berth-${id}.scope`));
  await daemon.client.call('StopPodSandbox', { pod_sandbox_id: id });
  assert.deepEqual(scopes(), []);
});

test('a restart of D-Bus, and of systemd itself, is no end of anything', options, async () => {
  const { id, path } = await container(idle, limits);
  for (const restart of [['restart', 'dbus'], ['daemon-reexec']]) {
    systemctl(...restart);
    const next = await container(idle);
    assert.match(systemctl('show', next.scope, '-p', 'ActiveState'), /=active/);
    await eventually('all values are exact', () => JSON.stringify(valuesOf(path)) === JSON.stringify(values));
    assert.match(await readDisk(id), /Operation not permitted/);
  }
});

test("what cAdvisor looks for lies in the kubelet's slice, through daemon-reload, and goes with the pod", options, async () => {
  const socket = '/run/berth-test-crio/crio.sock';
  const config = join(workspace.directory, 'config.toml');
  const plain = readFileSync(config, 'utf8');
  await daemon.end('SIGTERM');
  writeFileSync(config, `${plain}cadvisor_socket = "${socket}"\n`);
  daemon = await startDaemon(workspace);
  try {
    const security_context = { namespace_options: { network: 'POD', pid: 'CONTAINER' } };
    const sandbox = await pod({ security_context });
    const id = await runContainer(daemon.client, sandbox, image, 'main', idle, { linux: { resources: { memory_limit_in_bytes: String(64 * MiB) } } });
    const names = [`crio-${id}.scope`, `crio-${sandbox.id}.scope`].sort();
    assert.deepEqual(below(podPath).sort(), names);
    assert.equal(systemctl('show', `crio-${id}.scope`, '-p', 'ActiveState', '--value'), 'active');
    systemctl('daemon-reload');
    await eventually('systemd has answered', () => systemctl('show', `crio-${id}.scope`, '-p', 'MemoryMax', '--value') === String(64 * MiB));
    assert.deepEqual(below(podPath).sort(), names);
    assert.equal(value(`${podPath}/crio-${id}.scope`, 'memory.max'), String(64 * MiB));
    // Off again: what is there under this name goes on, and goes away.
    await daemon.end('SIGTERM');
    writeFileSync(config, plain);
    daemon = await startDaemon(workspace);
    assert.equal(await exec(daemon.client, id, 'echo', 'here'), 'here\n');
    await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: sandbox.id });
    assert.deepEqual(below(podPath), []);
    assert.equal(systemctl('list-units', '--all', '--plain', '--no-legend', 'crio-*'), '');
  } finally {
    writeFileSync(config, plain);
    rmSync(dirname(socket), { recursive: true, force: true });
  }
});
