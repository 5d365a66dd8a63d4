/** Statistics through the engine's functions, compared with the kernel's files: containers, pods, network and writable layer. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { metricDescriptors, podSandboxMetrics } from '../../src/cri/to-response/metrics-to-response.ts';
import type { ContainerSpec, SandboxSpec } from '../../src/engine/state/spec.ts';
import type { SandboxMetrics } from '../../src/engine/usage/pod-metrics.ts';
import type { ContainerStats, SandboxStats } from '../../src/engine/usage/stats.ts';
import { controllerDirectory } from '../../src/sys/cgroup/cgroup-facts.ts';
import { removeCgroup } from '../../src/sys/cgroup/cgroups.ts';
import { measureTree } from '../../src/sys/filesystem/disk-usage.ts';
import { readInterfaces } from '../../src/sys/network/network-counters.ts';
import { createNamespaces, unpinNamespaces } from '../../src/sys/process/namespaces.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const MiB = 1024 * 1024;
const never = new AbortController().signal;
const podCgroup = `/berth-test-${process.pid}-pods/pod1`;
let host: TestEngine;

before(async () => {
  host = await startEngine();
});
after(async () => {
  await host.end();
  await removeCgroup(host.deps.cgroups, podCgroup);
  await removeCgroup(host.deps.cgroups, podCgroup.slice(0, podCgroup.lastIndexOf('/')));
});

async function start(spec: ContainerSpec, sandbox: Partial<SandboxSpec> = {}): Promise<{ id: string; sandboxId: string }> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec(sandbox));
  const id = await host.engine.createContainer(sandboxId, spec, host.image);
  await host.engine.startContainer(id);
  return { id, sandboxId };
}

const idle = (changes: Partial<ContainerSpec> = {}): ContainerSpec => containerSpec(['sleep', '1000'], changes);

async function run(id: string, script: string): Promise<void> {
  const { exitCode, stderr } = await host.engine.execSync(id, ['sh', '-c', script], 60_000, never);
  assert.equal(exitCode, 0, `${script}: ${stderr}`);
}

async function allStats(): Promise<Map<string, ContainerStats>> {
  const portions: ContainerStats[] = [];
  for await (const portion of host.engine.stats.containers(host.engine.containers())) portions.push(...portion);
  return new Map(portions.map((each) => [each.record.id, each]));
}

async function statsOf(id: string): Promise<ContainerStats> {
  const stats = (await allStats()).get(id);
  assert.ok(stats, 'the container is listed');
  return stats;
}

async function podStats(sandboxId: string): Promise<SandboxStats> {
  for await (const [stats] of host.engine.stats.sandboxes([host.engine.sandbox(sandboxId)])) if (stats) return stats;
  assert.fail('the sandbox is listed');
}

/** Reads a number from a file of the container's cgroup. */
function kernelValue(cgroupPath: string, v1: readonly [string, string], v2: string): number {
  const { cgroups } = host.deps;
  const [controller, file] = cgroups.version === 1 ? v1 : ['memory', v2];
  return Number(readFileSync(`${controllerDirectory(cgroups, cgroupPath, controller)}/${file}`, 'utf8'));
}

test('statistics of a container equal those of its cgroup', async () => {
  const { id } = await start(idle({ resources: { memoryLimitBytes: 64 * MiB } }));
  const { record, counters } = await statsOf(id);
  const memory = counters.memory;
  assert.ok(memory);
  assert.equal(memory.limitBytes, 64 * MiB);
  const usage = kernelValue(record.cgroupPath, ['memory', 'memory.usage_in_bytes'], 'memory.current');
  assert.ok(Math.abs(memory.usageBytes - usage) < MiB, `${memory.usageBytes} is about ${usage}`);
  assert.ok(memory.workingSetBytes > 0 && memory.workingSetBytes <= memory.usageBytes);
  assert.equal(counters.tasks, 1);
});

test('anonymous memory and page faults are reported after the kernel has flushed its counters', async () => {
  const { id } = await start(idle());
  // It does so every two seconds or after enough changes.
  const patience = AbortSignal.timeout(20_000);
  for (;;) {
    const { memory } = (await statsOf(id)).counters;
    if (memory !== null && memory.rssBytes > 0 && memory.pageFaults > 0) break;
    patience.throwIfAborted();
    await sleep(100);
  }
});

test('CPU time is counted in nanoseconds', async () => {
  const { id } = await start(idle());
  const before = (await statsOf(id)).counters.cpuUsageNs ?? 0n;
  // Enough iterations for at least 100 ms on any machine, measured by the shell.
  const script = 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; read a b c </proc/self/schedstat; echo $a';
  const { stdout } = await host.engine.execSync(id, ['sh', '-c', script], 120_000, never);
  const used = ((await statsOf(id)).counters.cpuUsageNs ?? 0n) - before;
  const shell = BigInt(stdout.toString().trim());
  assert.ok(shell > 10_000_000n, `the shell took ${shell} ns`);
  assert.ok(used > shell / 2n && used < shell * 20n, `${used} ns are of the order of ${shell}`);
});

test('the CPU usage rate is unknown in the first call and set in the second', async () => {
  const { id } = await start(containerSpec(['sh', '-c', 'while true; do :; done'], { resources: { cpuPeriodUs: 100_000, cpuQuotaUs: 20_000 } }));
  assert.equal((await statsOf(id)).nanoCores, null);
  await sleep(2_500);
  const rate = (await statsOf(id)).nanoCores;
  await host.engine.stopContainer(id, 0);
  // Its quota is 20 % of a core; it may get less on a busy machine.
  assert.ok(rate !== null && rate > 5_000_000 && rate < 300_000_000, `${rate} nanocores`);
});

test('only running containers are listed, without one whose cgroup has just been removed', async () => {
  const { id, sandboxId } = await start(idle());
  const created = await host.engine.createContainer(sandboxId, idle({ metadata: { name: 'created', attempt: 0 } }), host.image);
  const views = host.engine.containers();
  assert.deepEqual([(await allStats()).has(id), (await allStats()).has(created)], [true, false]);
  await host.engine.stopContainer(id, 0);
  assert.equal((await allStats()).has(id), false);
  // With the earlier views, in which it was running.
  const late: ContainerStats[] = [];
  for await (const portion of host.engine.stats.containers(views)) late.push(...portion);
  assert.ok(!late.some(({ record }) => record.id === id));
});

test('statistics work while containers are started and removed', async () => {
  const stays = await start(idle());
  let isOver = false;
  const churn = (async () => {
    for (let n = 0; n < 5; n += 1) {
      const { sandboxId } = await start(idle());
      await host.engine.removeSandbox(sandboxId);
    }
    isOver = true;
  })();
  while (!isOver) {
    assert.ok((await allStats()).has(stays.id));
    assert.equal((await podStats(stays.sandboxId)).containers.length, 1);
    await sleep(1);
  }
  await churn;
});

test('the writable layer contains the usage of the container after it has been measured', async () => {
  const { id } = await start(idle());
  const empty = (await statsOf(id)).writableLayer;
  assert.ok(empty !== null && empty.bytes <= 64 * 1024, 'an empty layer is measured in the first call');
  const other = await start(containerSpec(['sh', '-c', `dd if=/dev/zero of=/file bs=${MiB} count=3 && touch /tmp/a /tmp/b && sleep 1000`]));
  const upper = host.deps.rootfs.upperDir(other.id);
  while (!existsSync(join(upper, 'tmp/b'))) await sleep(20);
  const written = (await statsOf(other.id)).writableLayer;
  assert.ok(written !== null && written.bytes >= 3 * MiB && written.bytes < 3.5 * MiB, `${written?.bytes} bytes`);
  // The directory itself, /file, /tmp and two files in it, and the created mount points.
  assert.ok(written.inodes >= 5, `${written.inodes} inodes`);
});

test('measureTree() counts hard links once, sparse files by their blocks, and files with names that are not UTF-8', async () => {
  const top = mkdtempSync('/var/tmp/berth-test-tree-');
  try {
    mkdirSync(join(top, 'below'));
    writeFileSync(join(top, 'file'), Buffer.alloc(MiB));
    linkSync(join(top, 'file'), join(top, 'below/link'));
    execFileSync('truncate', ['-s', '1G', join(top, 'sparse')]);
    writeFileSync(Buffer.concat([Buffer.from(`${top}/below/`), Buffer.from([0xff, 0xfe])]), Buffer.alloc(MiB));
    const { bytes, inodes } = await measureTree(top);
    const du = Number(execFileSync('du', ['--block-size=1', '-s', top], { encoding: 'utf8' }).split('\t')[0]);
    assert.deepEqual({ bytes, inodes }, { bytes: du, inodes: 5 });
  } finally {
    rmSync(top, { recursive: true });
  }
});

test('a pod with its own cgroup has the statistics of that cgroup, including processes outside its containers', async () => {
  const { id, sandboxId } = await start(idle(), { cgroupParent: podCgroup, namespaces: { network: 'pod', ipc: 'pod', pid: 'pod' } });
  const stats = await podStats(sandboxId);
  assert.deepEqual(
    stats.containers.map(({ record }) => record.id),
    [id],
  );
  // The reaper is in the pod's cgroup, but in no container.
  assert.equal(stats.counters?.tasks, 2);
  const usage = kernelValue(podCgroup, ['memory', 'memory.usage_in_bytes'], 'memory.current');
  assert.ok(Math.abs((stats.counters?.memory?.usageBytes ?? 0) - usage) < MiB);
  await host.engine.removeSandbox(sandboxId);
});

test('a pod without its own cgroup has the sum of its containers', async () => {
  const { sandboxId } = await start(idle());
  const second = await host.engine.createContainer(sandboxId, idle({ metadata: { name: 'second', attempt: 0 } }), host.image);
  await host.engine.startContainer(second);
  assert.equal((await podStats(sandboxId)).counters?.tasks, 2);
});

test("readInterfaces() reads the counters of each namespace and returns to the daemon's namespace", () => {
  const directory = mkdtempSync('/var/tmp/berth-test-netns-');
  const pins = ['a', 'b'].map((name) => join(directory, name));
  const inNs = (pin: string, ...args: string[]) => execFileSync('nsenter', [`--net=${pin}`, ...args], { encoding: 'utf8' });
  const home = readlinkSync('/proc/thread-self/ns/net');
  try {
    for (const pin of pins) createNamespaces({ pins: { net: pin }, hostname: '', sysctls: [] });
    const [first = '', second = ''] = pins;
    inNs(first, 'ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'far0');
    inNs(first, 'ip', 'link', 'set', 'eth0', 'up');
    inNs(first, 'ip', 'link', 'set', 'far0', 'up');
    inNs(first, 'ip', 'address', 'add', '192.0.2.1/24', 'dev', 'eth0');
    inNs(first, 'ip', 'neighbor', 'add', '192.0.2.2', 'lladdr', '02:00:00:00:00:02', 'dev', 'eth0');
    inNs(first, 'bash', '-c', 'echo some bytes >/dev/udp/192.0.2.2/9');
    const [counters, none, gone] = readInterfaces([first, second, join(directory, 'gone')]);
    const eth0 = counters?.find(({ name }) => name === 'eth0');
    const far0 = counters?.find(({ name }) => name === 'far0');
    assert.ok(eth0 !== undefined && eth0.transmit.packets > 0 && eth0.transmit.bytes > 0);
    assert.ok(far0 !== undefined && far0.receive.packets > 0, 'packets sent by one end are received by the other');
    assert.deepEqual([none, gone], [[], null]);
    assert.equal(readlinkSync('/proc/thread-self/ns/net'), home);
  } finally {
    unpinNamespaces(pins);
    rmSync(directory, { recursive: true });
  }
});

test('details contain processes, open files and sockets as in /proc', async () => {
  const { id, sandboxId } = await start(idle(), { cgroupParent: podCgroup });
  // The shell runs for several clock ticks, because v1 counts user and system time in ticks.
  await run(id, 'sleep 1000 </dev/null >/dev/null 2>&1 & i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done');
  let details: SandboxMetrics | undefined;
  for await (const each of host.engine.podMetrics([host.engine.sandbox(sandboxId)])) details = each;
  const [container] = details?.containers ?? [];
  const pid = host.engine.container(id).status.process?.pid ?? 0;
  assert.ok(container);
  assert.equal(container.processes.processes, container.stats.counters.tasks);
  assert.ok(container.processes.fds >= readdirSync(`/proc/${pid}/fd`).length);
  assert.equal(container.processes.sockets, 0);
  assert.ok(container.openFilesMax === null || container.openFilesMax > 0);
  assert.ok((container.cgroup.userNs ?? 0n) + (container.cgroup.systemNs ?? 0n) > 0n);
  assert.ok((details?.filesystem.totalBytes ?? 0) > 0 && (details?.filesystem.freeInodes ?? 0) <= (details?.filesystem.inodes ?? 0));
  assert.equal(details?.pod?.cgroupPath, podCgroup);
  await host.engine.removeSandbox(sandboxId);
});

test('all described metrics are reported, except those that depend on the machine', async () => {
  const { sandboxId } = await start(idle({ resources: { memoryLimitBytes: 64 * MiB, cpuPeriodUs: 100_000, cpuQuotaUs: 50_000 } }));
  const reported = new Set<string>();
  for await (const details of host.engine.podMetrics([host.engine.sandbox(sandboxId)])) {
    const { metrics = [], container_metrics = [] } = podSandboxMetrics(details);
    for (const { name = '' } of [...metrics, ...container_metrics.flatMap((each) => each.metrics ?? [])]) reported.add(name);
  }
  // There is only the loopback interface; devices, huge pages and pressure depend on the machine.
  const mayBeMissing = /^container_(network|fs_(reads|writes)|blkio|hugetlb|pressure|ulimits)_/;
  const missing = metricDescriptors().flatMap(({ name = '' }) => (reported.has(name) || mayBeMissing.test(name) ? [] : [name]));
  assert.deepEqual(missing, []);
});

test('pressure is reported if the kernel supports it', async () => {
  const { id } = await start(idle());
  const { pressure } = (await statsOf(id)).counters;
  const { cgroups } = host.deps;
  const isCounted = existsSync('/proc/pressure/cpu') && (cgroups.version === 2 || cgroups.unifiedRoot !== null);
  assert.deepEqual(
    [pressure.cpu, pressure.memory, pressure.io].map((each) => each !== null),
    [isCounted, isCounted, isCounted],
  );
});
