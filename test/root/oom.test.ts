/** OOM kills through the engine's functions: process and limit in the status, the log and the metric. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createOomKills, type OomKills } from '../../src/engine/oom/oom-kills.ts';
import type { ContainerStatus } from '../../src/engine/state/records.ts';
import type { Resources } from '../../src/engine/state/spec.ts';
import { writeCgroup } from '../../src/sys/cgroup/cgroup-values.ts';
import { createCgroup, removeCgroup } from '../../src/sys/cgroup/cgroups.ts';
import { openKernelLog } from '../../src/sys/process/kernel-log.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const MiB = 1024 * 1024;
const podsCgroup = `/berth-test-${process.pid}-oom`;
const isLogThere = openKernelLog() !== null;
const options = { skip: !isLogThere && 'the kernel log cannot be read' };
const limited: Resources = { memoryLimitBytes: 20 * MiB, memorySwapLimitBytes: 20 * MiB };
/** A single process that allocates memory until it is killed. */
const greedy = 'x=a; while :; do x=$x$x$x; done';

type Line = Record<string, unknown> & { message: string };

let host: TestEngine;
let lines: Line[] = [];
let counts: Record<string, number> = {};

before(async () => {
  host = await startEngine();
});
beforeEach(() => {
  host.deps.oomKills.close();
  useLog(true);
});
after(async () => {
  await host.end();
  for (const path of [`${podsCgroup}/pod1`, podsCgroup]) await removeCgroup(host.deps.cgroups, path);
});

/** The engine's OOM reports, recorded by the test. */
function useLog(isReadable: boolean): void {
  lines = [];
  counts = {};
  const oomKills = createOomKills({
    store: host.deps.store,
    kernelLog: isReadable ? openKernelLog() : null,
    observe: (limit, kills) => {
      counts[limit] = (counts[limit] ?? 0) + kills;
    },
    log: { ...host.deps.log, warn: (fields, message) => lines.push({ ...fields, message }) },
  });
  (host.deps as { oomKills: OomKills }).oomKills = oomKills;
}

async function start(script: string, resources: Resources, cgroupParent?: string): Promise<string> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec(cgroupParent === undefined ? {} : { cgroupParent }));
  const id = await host.engine.createContainer(sandboxId, containerSpec(['sh', '-c', script], { resources }), host.image);
  await host.engine.startContainer(id);
  return id;
}

async function ended(id: string): Promise<ContainerStatus> {
  await host.deps.watches.of(id)?.exited;
  return host.engine.container(id).status;
}

test('an OOM kill at the container limit is reported with its process and the memory usage', options, async () => {
  const { exitCode, reason, message, oom } = await ended(await start(greedy, limited));
  assert.deepEqual([exitCode, reason], [137, 'OOMKilled']);
  assert.match(
    message ?? '',
    /^OOM-killed: process \d+ \(sh\), pid 1 in the container, at the container's memory limit of 20 MiB; memory usage: 1\d(\.\d)? MiB anonymous/,
  );
  assert.deepEqual(counts, { container: 1 });
  assert.deepEqual(
    lines.map((line) => [line.message, line['limit'], line['pid']]),
    [[message, 'container', oom?.last.pid]],
  );
});

test('tmpfs usage is distinguished from anonymous memory', options, async () => {
  const { message } = await ended(await start(`dd if=/dev/zero of=/dev/shm/x bs=1M count=14; ${greedy}`, limited));
  assert.match(message ?? '', /1\d(\.\d)? MiB tmpfs and shared/);
});

test('an OOM-killed child is reported while the container keeps running, and is not its exit reason', options, async () => {
  const id = await start(`sh -c '${greedy}'; sleep 1000`, limited);
  for (let waits = 0; waits < 400 && lines.length === 0; waits += 1) await sleep(50);
  assert.match(lines[0]?.message ?? '', /^OOM-killed: process \d+ \(sh\) of the container, at the container's memory limit of 20 MiB; /);
  assert.equal(lines.length, 1);
  const { status } = host.engine.container(id);
  assert.deepEqual([status.oom?.kills, status.oom?.last.isFirst, status.finishedAtNs], [1, false, undefined]);
  assert.equal((host.engine.explain(id)['oom'] as typeof status.oom)?.kills, 1);
  assert.deepEqual(counts, { container: 1 });
});

test('a shell that exits because its child was OOM-killed has the reason OOMKilled and names the process', options, async () => {
  const { exitCode, reason, message } = await ended(await start(`sh -c '${greedy}'; exit $?`, limited));
  assert.deepEqual([exitCode, reason], [137, 'OOMKilled']);
  assert.match(message ?? '', /^OOM-killed: process \d+ \(sh\) of the container, at the container's memory limit/);
});

test("the pod's limit is distinguished from the container's", options, async () => {
  const { cgroups } = host.deps;
  const path = `${podsCgroup}/pod1`;
  createCgroup(cgroups, path);
  const files = cgroups.version === 1 ? ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'] : ['memory.max', 'memory.swap.max'];
  files.forEach((file, index) => {
    const value = String(cgroups.version === 2 && index === 1 ? 0 : 24 * MiB);
    writeCgroup(cgroups, path, [{ controller: 'memory', file, value, tolerate: 'missing', note: 'test' }]);
  });
  const id = await start(greedy, {}, path);
  const { reason, message } = await ended(id);
  assert.equal(reason, 'OOMKilled');
  assert.match(message ?? '', /, at the pod's memory limit of 24 MiB; memory usage: /);
  assert.deepEqual(counts, { pod: 1 });
  await host.engine.removeSandbox(host.engine.container(id).record.sandboxId);
});

test('a daemon that is started later reads missed OOM kills and counts none twice', options, async () => {
  host.deps.oomKills.close();
  const id = await start(`sh -c '${greedy}'; sleep 1000`, limited);
  for (let waits = 0; waits < 400 && (await kills(id)) === 0; waits += 1) await sleep(50);
  useLog(true);
  host.deps.oomKills.catchUp();
  assert.deepEqual(counts, { container: 1 });
  host.deps.oomKills.close();
  useLog(true);
  host.deps.oomKills.catchUp();
  assert.deepEqual([counts, host.engine.container(id).status.oom?.kills], [{}, 1]);
});

test('without the kernel log the verdict is the same, with the number of kills', async () => {
  host.deps.oomKills.close();
  useLog(false);
  const { exitCode, reason, message } = await ended(await start(greedy, limited));
  assert.deepEqual([exitCode, reason, message], [137, 'OOMKilled', 'OOM-killed: 1 process of the container']);
  assert.deepEqual(counts, { unknown: 1 });
});

async function kills(id: string): Promise<number> {
  for await (const details of host.engine.podMetrics(host.engine.sandboxes())) {
    const container = details.containers.find(({ stats }) => stats.record.id === id);
    if (container !== undefined) return container.cgroup.oomKills ?? 0;
  }
  return 0;
}
