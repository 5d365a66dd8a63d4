/**
 * Tests the daemon with systemd as cgroup driver and cgroup v2: each container is a scope, and the kernel enforces its limits after systemctl
 * daemon-reload and after restarts of the daemon, D-Bus and systemd. Skipped if systemd is not pid 1.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from '../root/support/daemon.ts';
import { detailsOf, eventually, exec, type Pod, pullSample, runContainer, runPod, statusOf } from '../root/support/pods.ts';

const canRun = isBuilt && existsSync('/run/systemd/system') && existsSync('/sys/fs/cgroup/cgroup.controllers');
const options = { skip: !canRun && 'needs a built berth, systemd and cgroup v2', timeout: 600_000 };

const root = '/sys/fs/cgroup';
const podSlice = 'berthtest-burstable-pod1_a.slice';
const podPath = `/berthtest.slice/berthtest-burstable.slice/${podSlice}`;
const MiB = 1 << 20;

let workspace: Workspace;
let daemon: Daemon;
let image: string;
let pods = 0;

before(async () => {
  if (!canRun) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
});
after(async () => {
  if (!canRun) return;
  await daemon.end('SIGTERM');
  await workspace.remove();
  systemctl('stop', 'berthtest.slice');
});
afterEach(async () => {
  if (!canRun) return;
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

async function exitOf(id: string) {
  await eventually(`${id} exits`, async () => (await statusOf(daemon.client, id)).state === 'CONTAINER_EXITED');
  const { exit_code, reason } = await statusOf(daemon.client, id);
  return [exit_code, reason];
}

const idle = 'trap "exit 0" TERM; while :; do sleep 1; done';
const hog = 'x=a; while :; do x=$x$x$x; done';

/** Limits of each kind: those that systemd rounds, those that no unit property can express, and others. */
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
/** Files that systemd may set to other values while no daemon is running to correct them. */
const inexact = new Set(['cpu.max', 'memory.oom.group']);

function valuesOf(path: string, files: readonly string[] = Object.keys(values)): Record<string, string> {
  return Object.fromEntries(files.map((file) => [file, existsSync(join(root, path, file)) ? value(path, file) : 'no such file']));
}

/** Reads a disk of the node through a device node that the container creates: only the device policy prevents it. */
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

test('RuntimeConfig returns the cgroup driver systemd', options, async () => {
  assert.deepEqual(await daemon.client.call('RuntimeConfig', {}), { linux: { cgroup_driver: 'SYSTEMD' } });
});

test("a container is a delegated scope in the kubelet's slice", options, async () => {
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

test('a sandbox without a cgroup parent is in system.slice, and a parent that is not a slice is rejected', options, async () => {
  const id = await runContainer(daemon.client, await pod({ cgroup_parent: '' }), image, 'main', idle);
  assert.equal((await detailsOf(daemon.client, id)).cgroupPath, `/system.slice/cri-berth-${id}.scope`);
  await assert.rejects(pod({ cgroup_parent: '/kubepods/burstable/pod1' }), /is not a systemd slice.*cgroupDriver/);
});

test('the kernel enforces limits: CPU throttling, failing forks, OOM kills', options, async () => {
  const busy = await container('while :; do :; done', { cpu_quota: '10000', cpu_period: '100000' });
  await eventually('it is throttled', () => Number(/nr_throttled (\d+)/.exec(value(busy.path, 'cpu.stat'))?.[1]) > 3);
  const forking = await container(idle, { unified: { 'pids.max': '5' } });
  await assert.rejects(
    exec(daemon.client, forking.id, 'sh', '-c', 'for i in 1 2 3 4 5 6 7; do sleep 5 & done'),
    /fork|Resource temporarily unavailable/,
  );
  const memory = { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) };
  assert.deepEqual(await exitOf((await container(hog, memory)).id), [137, 'OOMKilled']);
  const parent = await container(`sh -c '${hog}'; exit 3`, memory);
  assert.deepEqual(await exitOf(parent.id), [3, 'OOMKilled']);
});

test('limits and device policy survive a reload of systemd', options, async () => {
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

test('an update survives a reload, and a failed update changes nothing', options, async () => {
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

test('limits survive a reload of systemd before the container starts', options, async () => {
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

test('an update before the start applies from the start', options, async () => {
  const sandbox = await pod();
  const config = { metadata: { name: 'main', attempt: 0 }, image: { image }, command: ['sh', '-c', idle], linux: { resources: limits } };
  const creation = { pod_sandbox_id: sandbox.id, config, sandbox_config: sandbox.config };
  const { container_id } = await daemon.client.call<{ container_id: string }>('CreateContainer', creation);
  await daemon.client.call('UpdateContainerResources', { container_id, linux: { cpu_shares: '1024' } });
  await daemon.client.call('StartContainer', { container_id });
  assert.deepEqual(valuesOf(`${podPath}/cri-berth-${container_id}.scope`), { ...values, 'cpu.weight': '100' });
});

test('limits and device policy apply while no daemon is running, and are exact again with the next one', options, async () => {
  const { id, path, scope } = await container(idle, limits);
  const exact = Object.keys(values).filter((file) => !inexact.has(file));
  await daemon.end('SIGKILL');
  systemctl('daemon-reload');
  assert.deepEqual(valuesOf(path, exact), Object.fromEntries(Object.entries(values).filter(([file]) => !inexact.has(file))));
  daemon = await startDaemon(workspace);
  assert.deepEqual(valuesOf(path), values);
  assert.match(await readDisk(id), /Operation not permitted/);
  assert.equal(systemctl('show', scope, '-p', 'ActiveState'), 'ActiveState=active');
  assert.equal((await statusOf(daemon.client, id)).state, 'CONTAINER_RUNNING');
});

test('an OOM kill is reported although its scope is gone and no daemon was running', options, async () => {
  const memory = { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) };
  const { id, scope } = await container(`while [ ! -e /tmp/go ]; do sleep 1; done; ${hog}`, memory);
  await exec(daemon.client, id, 'touch', '/tmp/go');
  await daemon.end('SIGKILL');
  await eventually('the scope is gone', () => !scopes().some((line) => line.includes(scope)));
  daemon = await startDaemon(workspace);
  assert.deepEqual(await exitOf(id), [137, 'OOMKilled']);
});

test('containers that exit at once report their exit codes and leave no scope', options, async () => {
  const sandbox = await pod();
  const started = await Promise.all(
    [0, 1, 2, 3, 4, 5, 6, 7].map((code) => runContainer(daemon.client, sandbox, image, `quick${code}`, `exit ${code}`)),
  );
  const exits = await Promise.all(started.map(exitOf));
  assert.deepEqual(
    exits.map(([code]) => code),
    [0, 1, 2, 3, 4, 5, 6, 7],
  );
  await eventually('no scope is left', () => scopes().length === 0);
});

test('the reaper of a shared pid namespace has a scope', options, async () => {
  const { id } = await pod({ security_context: { namespace_options: { network: 'NODE', pid: 'POD' } } });
  assert.equal(scopes().length, 1);
  assert.match(scopes()[0] ?? '', new RegExp(`^cri-berth-${id}.scope`));
  await daemon.client.call('StopPodSandbox', { pod_sandbox_id: id });
  assert.deepEqual(scopes(), []);
});

test('containers and limits survive restarts of D-Bus and systemd', options, async () => {
  const { id, path } = await container(idle, limits);
  for (const restart of [['restart', 'dbus'], ['daemon-reexec']]) {
    systemctl(...restart);
    const next = await container(idle);
    assert.match(systemctl('show', next.scope, '-p', 'ActiveState'), /=active/);
    await eventually('all values are exact', () => JSON.stringify(valuesOf(path)) === JSON.stringify(values));
    assert.match(await readDisk(id), /Operation not permitted/);
  }
});

test("the cgroups for cAdvisor are in the kubelet's slice, survive daemon-reload, and are removed with the pod", options, async () => {
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
    await eventually('systemd has reloaded', () => systemctl('show', `crio-${id}.scope`, '-p', 'MemoryMax', '--value') === String(64 * MiB));
    assert.deepEqual(below(podPath).sort(), names);
    assert.equal(value(`${podPath}/crio-${id}.scope`, 'memory.max'), String(64 * MiB));
    // With cAdvisor support off again, existing cgroups keep working and are removed with the pod.
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
