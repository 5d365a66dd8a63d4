/**
 * Kills or terminates the daemon while pods are running: the pods keep running, nothing is lost, and all of them can be removed.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { openKernelLog } from '../../src/sys/process/kernel-log.ts';
import { isAlive, processStartTime } from '../../src/sys/process/processes.ts';
import { cgroupDirectories } from '../support/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, findLeftovers, isBuilt, runBerth, serveArguments, startDaemon, type Workspace } from './support/daemon.ts';
import { type Details, detailsOf, eventually, exec, logLines, type Pod, pullSample, runContainer, runPod, statusOf } from './support/pods.ts';

const options = { skip: !isBuilt && 'berth is not built', timeout: 120_000 };
if (isBuilt) enterIsolation();

let workspace: Workspace;
let daemon: Daemon;
let image: string;
let leftoversBefore: Awaited<ReturnType<typeof findLeftovers>>;

before(async () => {
  if (!isBuilt) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
  // The bridge and the plugins' common chains stay after the first pod.
  const first = await runPod(daemon.client, 'first', workspace.directory, {
    port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 18100 }],
  });
  await removePod(first);
  leftoversBefore = await findLeftovers(workspace, daemon);
});
after(async () => {
  if (!isBuilt) return;
  await daemon.end('SIGTERM');
  await workspace.remove();
});

/** A failed test must not affect the next one. */
afterEach(async () => {
  if (!isBuilt) return;
  const { items } = await daemon.client.call<{ items: { id: string }[] }>('ListPodSandbox', {});
  for (const { id } of items) await removePod({ id });
});

async function restart(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL', whileDown: () => void | Promise<void> = () => {}): Promise<void> {
  await daemon.end(signal);
  await whileDown();
  daemon = await startDaemon(workspace);
}

async function removePod({ id: pod_sandbox_id }: Pick<Pod, 'id'>): Promise<void> {
  await daemon.client.call('StopPodSandbox', { pod_sandbox_id });
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id });
}

/** Prints numbered lines as fast as possible, with short pauses. */
const writer = 'i=0; while :; do echo "n $i"; i=$((i+1)); [ $((i % 100)) = 0 ] && usleep 20000; done';
const waitFor = (name: string) => `while [ ! -e /go/${name} ]; do usleep 20000; done`;
const numbers = (lines: readonly string[]) => lines.map((line) => Number(/^n (\d+)\r?$/.exec(line)?.[1] ?? Number.NaN));
const nowNs = () => BigInt(Date.now()) * 1_000_000n;

function assertComplete(lines: readonly string[]): void {
  const found = numbers(lines);
  assert.deepEqual(found, [...found.keys()], 'each line is logged once and completely');
}

test('containers and their logs survive a killed daemon, and exits without a daemon are reported correctly', options, async () => {
  const { client } = daemon;
  const go = join(workspace.directory, 'go');
  mkdirSync(go);
  const mounts = [{ container_path: '/go', host_path: go }];
  const pod = await runPod(client, 'alone', workspace.directory, { port_mappings: [{ protocol: 'TCP', container_port: 80, host_port: 18101 }] });
  const namespaces = { security_context: { namespace_options: { pid: 'POD' } } };
  const shared = await runPod(client, 'shared', workspace.directory, { linux: namespaces });
  const memory = { resources: { memory_limit_in_bytes: String(24 << 20), memory_swap_limit_in_bytes: String(24 << 20) } };
  const ids = {
    writing: await runContainer(client, pod, image, 'writing', writer),
    terminal: await runContainer(client, pod, image, 'terminal', writer, { tty: true }),
    sharing: await runContainer(client, shared, image, 'sharing', writer, { linux: namespaces }),
    seven: await runContainer(client, pod, image, 'seven', `${waitFor('exit')}; echo last words; exit 7`, { mounts }),
    greedy: await runContainer(client, pod, image, 'greedy', `${waitFor('oom')}; x=a; while :; do x=$x$x$x; done`, { mounts, linux: memory }),
    orphan: await runContainer(client, pod, image, 'orphan', 'sleep 1000'),
    stubborn: await runContainer(client, pod, image, 'stubborn', 'trap "" TERM; while :; do sleep 1000; done'),
  };
  const running = [ids.writing, ids.terminal, ids.sharing, ids.stubborn];
  const before = new Map<string, Details>();
  for (const id of Object.values(ids)) before.set(id, await detailsOf(client, id));
  const identities = running.map((id) => before.get(id)?.pid as number).map((pid) => [pid, processStartTime(pid)] as const);
  // A stop that is waiting when the daemon is killed.
  const stop = client.call('StopContainer', { container_id: ids.stubborn, timeout: '60' }).catch((error: Error) => error);

  const killedAtNs = nowNs();
  await restart('SIGKILL', async () => {
    for (const name of ['exit', 'oom']) writeFileSync(join(go, name), '');
    process.kill(before.get(ids.orphan)?.monitorPid as number, 'SIGKILL');
    for (const id of [ids.seven, ids.greedy]) await eventually(`${id} exits`, () => existsSync(join(workspace.state, 'containers', id, 'exit.json')));
  });
  const restartedAtNs = nowNs();

  assert.ok((await stop) instanceof Error);
  for (const [pid, startTime] of identities) assert.ok(isAlive(pid, startTime ?? ''), `${pid} runs`);
  for (const id of running) {
    assert.equal((await statusOf(daemon.client, id)).state, 'CONTAINER_RUNNING');
    assert.equal((await detailsOf(daemon.client, id)).pid, before.get(id)?.pid);
    assert.equal(await exec(daemon.client, id, 'echo', 'here'), 'here\n');
  }
  const ends = { seven: [7, 'Error'], greedy: [137, 'OOMKilled'], orphan: [255, 'Unknown'] } as const;
  for (const [name, [exitCode, reason]] of Object.entries(ends)) {
    const status = await statusOf(daemon.client, ids[name as keyof typeof ends]);
    assert.deepEqual([status.state, status.exit_code, status.reason], ['CONTAINER_EXITED', exitCode, reason], name);
    const finishedAtNs = BigInt(status.finished_at);
    assert.ok(
      killedAtNs <= finishedAtNs && finishedAtNs <= restartedAtNs && BigInt(status.started_at) < killedAtNs,
      `${name} ended while the daemon was dead`,
    );
  }
  const message =
    openKernelLog() === null
      ? /^OOM-killed: 1 process/
      : /^OOM-killed: process \d+ \(sh\) of the container, at the container's memory limit of 24 MiB;/;
  assert.match((await statusOf(daemon.client, ids.greedy)).message, message);
  assert.deepEqual(logLines(join(pod.logDirectory, 'seven.log')), ['last words']);
  assert.equal(processStartTime(before.get(ids.orphan)?.pid as number), null, 'a container without its monitor is killed');

  const { items } = await daemon.client.call<{ items: { state: string }[] }>('ListPodSandbox', {});
  assert.deepEqual(
    items.map(({ state }) => state),
    ['SANDBOX_READY', 'SANDBOX_READY'],
  );
  assert.match(await exec(daemon.client, ids.sharing, 'ps'), /^ +1 root +.*berth-/m, 'the reaper is running');
  assert.equal(await exec(daemon.client, ids.writing, 'hostname'), 'alone\n');

  for (const id of [ids.writing, ids.terminal, ids.sharing]) {
    const directory = id === ids.sharing ? shared.logDirectory : pod.logDirectory;
    const name = id === ids.writing ? 'writing' : id === ids.terminal ? 'terminal' : 'sharing';
    const [current, old] = [join(directory, `${name}.log`), join(directory, `${name}.log.old`)];
    renameSync(current, old);
    await daemon.client.call('ReopenContainerLog', { container_id: id });
    await eventually(`${name} continues to write`, () => statSync(current).size > 10_000);
    await daemon.client.call('StopContainer', { container_id: id, timeout: '0' });
    const lines = logLines(old, current);
    assertComplete(lines);
    assert.ok(lines.length > 500, `${name}: ${lines.length} lines`);
  }

  await daemon.client.call('StopContainer', { container_id: ids.stubborn, timeout: '1' });
  assert.equal((await statusOf(daemon.client, ids.stubborn)).exit_code, 137);
  await removePod(pod);
  await removePod(shared);
  assert.deepEqual(await findLeftovers(workspace, daemon), leftoversBefore);
});

test('after a restart resources can be changed, and a container whose monitor is killed becomes EXITED', options, async () => {
  const pod = await runPod(daemon.client, 'changed', workspace.directory);
  const id = await runContainer(daemon.client, pod, image, 'main', 'sleep 1000');
  await restart();
  const linux = { memory_limit_in_bytes: String(64 << 20), cpu_shares: '512' };
  await daemon.client.call('UpdateContainerResources', { container_id: id, linux });
  const { pid, monitorPid, cgroupPath } = await detailsOf(daemon.client, id);
  const limits = cgroupDirectories(cgroupPath.slice(1))
    .flatMap((path) => ['memory.limit_in_bytes', 'memory.max'].map((file) => join(path, file)))
    .filter((file) => existsSync(file));
  assert.deepEqual(
    limits.map((file) => readFileSync(file, 'utf8')),
    [`${64 << 20}\n`],
  );
  await restart();
  assert.equal((await statusOf(daemon.client, id)).resources.linux.cpu_shares, '512');
  process.kill(monitorPid, 'SIGKILL');
  await eventually('the container is EXITED', async () => (await statusOf(daemon.client, id)).state === 'CONTAINER_EXITED');
  const { exit_code, reason } = await statusOf(daemon.client, id);
  assert.deepEqual([exit_code, reason, processStartTime(pid)], [255, 'Unknown', null]);
  await removePod(pod);
  assert.deepEqual(await findLeftovers(workspace, daemon), leftoversBefore);
});

test('the resources of a pod survive a restart and are shown', options, async () => {
  const pod = await runPod(daemon.client, 'resized', workspace.directory);
  const update = (values: object) => daemon.client.call('UpdatePodSandboxResources', { pod_sandbox_id: pod.id, ...values });
  await update({ overhead: { cpu_shares: '10' }, resources: { memory_limit_in_bytes: '1048576' } });
  await update({ resources: { memory_limit_in_bytes: '2097152' } });
  await restart('SIGKILL');
  const { info } = await daemon.client.call<{ info: { info: string } }>('PodSandboxStatus', { pod_sandbox_id: pod.id, verbose: true });
  const { overhead, resources } = JSON.parse(info.info);
  assert.deepEqual([overhead, resources], [{ cpuShares: 10 }, { memoryLimitBytes: 2_097_152 }]);
  await removePod(pod);
});

test('SIGTERM waits for calls in progress, and leaves containers running', options, async () => {
  const pod = await runPod(daemon.client, 'drained', workspace.directory);
  const id = await runContainer(daemon.client, pod, image, 'main', writer);
  const { pid } = await detailsOf(daemon.client, id);
  const answer = exec(daemon.client, id, 'sh', '-c', 'echo begun >/begun; sleep 1; echo done');
  await eventually('the call is in progress', () =>
    exec(daemon.client, id, 'cat', '/begun').then(
      () => true,
      () => false,
    ),
  );
  assert.deepEqual(await Promise.all([answer, daemon.end('SIGTERM')]), ['done\n', 0]);
  daemon = await startDaemon(workspace);
  assert.equal((await detailsOf(daemon.client, id)).pid, pid);
  assert.equal((await statusOf(daemon.client, id)).state, 'CONTAINER_RUNNING');
  await daemon.client.call('StopContainer', { container_id: id, timeout: '0' });
  assertComplete(logLines(join(pod.logDirectory, 'main.log')));
  await removePod(pod);
  assert.deepEqual(await findLeftovers(workspace, daemon), leftoversBefore);
});

test('a second daemon on the same directories or socket fails to start and changes nothing', options, async () => {
  const pod = await runPod(daemon.client, 'kept', workspace.directory);
  const id = await runContainer(daemon.client, pod, image, 'main', 'sleep 1000');
  const elsewhere = (name: string) => join(workspace.directory, `other-${name}`);
  const sameState = await runBerth([...serveArguments(workspace), '--socket', elsewhere('socket'), '--root', elsewhere('root')]);
  assert.deepEqual([sameState.code, sameState.output], [1, `berth: another daemon uses ${workspace.state}: ${advice}\n`]);
  const sameRoot = await runBerth([...serveArguments(workspace), '--socket', elsewhere('socket'), '--state', elsewhere('state')]);
  assert.deepEqual([sameRoot.code, sameRoot.output], [1, `berth: another daemon uses ${workspace.root}: ${advice}\n`]);
  const sameSocket = await runBerth([...serveArguments(workspace), '--root', elsewhere('root'), '--state', elsewhere('state')]);
  assert.equal(sameSocket.code, 1);
  assert.match(sameSocket.output, /^berth: listen on \S+berth\.sock: another daemon is listening there$/m);
  assert.equal(await exec(daemon.client, id, 'echo', 'here'), 'here\n');
  await removePod(pod);
});

const advice = 'stop it, or give each daemon its own --root, --state and --socket';
