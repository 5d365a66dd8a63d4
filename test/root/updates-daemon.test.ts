/** Updates of a running container's resources through the daemon: what the kernel's files say afterwards, with either version of cgroups. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Message } from '../../scripts/cri-client.ts';
import { controllerDirectory } from '../../src/sys/cgroup/cgroup-facts.ts';
import { probeCgroups } from '../../src/sys/cgroup/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { createWorkspace, type Daemon, isBuilt, startDaemon, type Workspace } from './support/daemon.ts';
import { detailsOf, eventually, exec, type Pod, pullSample, runContainer, runPod, statusOf } from './support/pods.ts';

const skip = !isBuilt && 'berth is not built';
if (!skip) enterIsolation();

const MiB = 1 << 20;
const facts = probeCgroups();
let workspace: Workspace;
let daemon: Daemon;
let image: string;
let pod: Pod;

before(async () => {
  if (skip) return;
  workspace = createWorkspace();
  daemon = await startDaemon(workspace);
  image = await pullSample(daemon.client);
  pod = await runPod(daemon.client, 'updates', workspace.directory);
});
after(async () => {
  if (skip) return;
  await daemon.client.call('RemovePodSandbox', { pod_sandbox_id: pod.id });
  await daemon.end('SIGTERM');
  await workspace.remove();
});

const start = (named: string, resources: Message, script = 'exec sleep 1000') =>
  runContainer(daemon.client, pod, image, named, script, { linux: { resources } });
const update = (container_id: string, linux: Message) => daemon.client.call('UpdateContainerResources', { container_id, linux });

/** Returns the value of a file of the container's cgroup. @param names on v1 and on v2. */
async function limitOf(id: string, controller: string, names: readonly [v1: string, v2: string]): Promise<string> {
  const { cgroupPath } = await detailsOf(daemon.client, id);
  return readFileSync(join(controllerDirectory(facts, cgroupPath, controller) ?? '', names[facts.version - 1] ?? ''), 'utf8').trim();
}
const memoryOf = (id: string) => limitOf(id, 'memory', ['memory.limit_in_bytes', 'memory.max']);

test('memory -1 alone lifts the limits of memory and of swap, as with runc 1.5', { skip }, async () => {
  const id = await start('unlimited', {
    memory_limit_in_bytes: 64 * MiB,
    memory_swap_limit_in_bytes: 64 * MiB,
    cpu_quota: 50_000,
    cpu_period: 100_000,
  });
  assert.equal(await memoryOf(id), String(64 * MiB));
  await update(id, { memory_limit_in_bytes: -1 });
  assert.match(await memoryOf(id), /^(max|9223372036854771712)$/);
  if (facts.hasSwapAccounting)
    assert.match(await limitOf(id, 'memory', ['memory.memsw.limit_in_bytes', 'memory.swap.max']), /^(max|9223372036854771712)$/);
  await update(id, { cpu_quota: -1 });
  assert.match(await limitOf(id, 'cpu', ['cpu.cfs_quota_us', 'cpu.max']), /^(-1|max 100000)$/);
  // A later limit is one of memory plus swap again.
  await update(id, { memory_limit_in_bytes: 32 * MiB });
  assert.equal(await memoryOf(id), String(32 * MiB));
  if (facts.hasSwapAccounting)
    assert.equal(await limitOf(id, 'memory', ['memory.memsw.limit_in_bytes', 'memory.swap.max']), facts.version === 1 ? String(32 * MiB) : '0');
});

test('a memory limit can be lowered below the page cache in use, not below what cannot be reclaimed', { skip }, async () => {
  const limit = { memory_limit_in_bytes: 200 * MiB };
  const script = 'dd if=/dev/zero of=/file bs=1M count=100 2>/dev/null; sync; cat /file /file >/dev/null; touch /ready; exec sleep 1000';
  const cached = await start('cached', limit, script);
  await eventually('the file is cached', async () => (await exec(daemon.client, cached, 'ls', '/')).includes('ready'));
  await update(cached, { memory_limit_in_bytes: 40 * MiB });
  assert.equal(await memoryOf(cached), String(40 * MiB));
  const held = await start('held', limit, 'dd if=/dev/zero of=/dev/shm/file bs=1M count=50 2>/dev/null; touch /ready; exec sleep 1000');
  await eventually('the memory is in use', async () => (await exec(daemon.client, held, 'ls', '/')).includes('ready'));
  await assert.rejects(update(held, { memory_limit_in_bytes: 20 * MiB }), /FAILED_PRECONDITION.*memory limit 20971520 bytes/);
  assert.equal(await memoryOf(held), String(200 * MiB));
  for (const id of [cached, held]) assert.equal((await statusOf(daemon.client, id)).state, 'CONTAINER_RUNNING');
});

test('a limit of 0 processes is accepted with every cgroup driver', { skip }, async () => {
  const id = await start('frozen', {});
  await update(id, { unified: { 'pids.max': '0' } });
  assert.equal(await limitOf(id, 'pids', ['pids.max', 'pids.max']), '0');
  await update(id, { unified: { 'pids.max': 'max' } });
  assert.equal(await exec(daemon.client, id, 'echo', 'again'), 'again\n');
});
