/**
 * Tests of all container limits: the kubelet's request, the resulting cgroup values, and a check that the kernel enforces the limit. The same table
 * is used for cgroup v1, cgroup v2, and cgroup v2 with systemd.
 *
 * Creates cgroups and a systemd slice with unique names, and removes them.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { resourcesFrom } from '../../src/cri/from-request/resources-from-request.ts';
import type { LinuxContainerResources } from '../../src/cri/wire/messages.ts';
import { planCgroup, planCgroupUpdate } from '../../src/engine/cgroup/cgroup.ts';
import { deviceRules } from '../../src/engine/cgroup/device-rules.ts';
import { type CgroupDriver, type CgroupDriverName, chooseCgroupDriver } from '../../src/engine/lifecycle/cgroup-driver.ts';
import type { Resources } from '../../src/engine/state/spec.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { createLog } from '../../src/lib/log.ts';
import { controllerDirectory, flatKeyed } from '../../src/sys/cgroup/cgroup-facts.ts';
import { killCgroup } from '../../src/sys/cgroup/cgroup-processes.ts';
import { oomKills, readMemoryUsage } from '../../src/sys/cgroup/cgroup-values.ts';
import { probeCgroups, removeCgroup, setDevices } from '../../src/sys/cgroup/cgroups.ts';
import { type ExitResult, runInCgroup, startInCgroup, startSleeper, until } from './in-cgroup.ts';
import { attachDisk, detachDisk } from './loop-disk.ts';

const facts = probeCgroups();
const isV2 = facts.version === 2;
const MiB = 1 << 20;

/** The cgroup of a container under test. */
type TestCgroup = {
  readonly path: string;
  readonly run: (script: string) => Promise<ExitResult>;
  readonly start: (script: string) => ChildProcess;
  /** Returns the text of a file. The file name's first word is the controller. */
  readonly read: (file: string) => string;
  readonly update: (resources: LinuxContainerResources) => Promise<void>;
};

type Limit = {
  readonly name: string;
  /** Why this machine cannot run the test. */
  readonly skipReason?: string | false | undefined;
  /** The kubelet's request. */
  readonly requested: LinuxContainerResources;
  /** The resulting values of cgroup files. */
  readonly expected: Readonly<Record<string, string>>;
  /** Asserts that the kernel enforces the limit. */
  readonly verify?: (cgroup: TestCgroup) => Promise<void>;
};

const onlyV2 = !isV2 && 'cgroup v2 only';
const without = (controller: string) => !facts.controllers.has(controller) && `no cgroup controller ${controller}`;
const hasSwap = readFileSync('/proc/swaps', 'utf8').trim().split('\n').length > 1;
const freeHugepages = Number(/^HugePages_Free: *(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
const onAnyVersion = (v1: Record<string, string>, v2: Record<string, string>) => (isV2 ? v2 : v1);

/** Returns a command that allocates memory. */
const allocate = (bytes: number) => `perl -e '$n = ${bytes}; $x = "x" x $n; print "allocated\\n"'`;
const busyLoop = 'while :; do :; done';

/** The disk for I/O limits. */
const disk = { directory: '', device: '', number: '', rule: { type: 'block' as const, major: 0, minor: 0 } };

const limits: readonly Limit[] = [
  {
    name: 'a CPU quota throttles',
    requested: { cpu_quota: '5000', cpu_period: '50000' },
    expected: onAnyVersion({ 'cpu.cfs_quota_us': '5000', 'cpu.cfs_period_us': '50000' }, { 'cpu.max': '5000 50000' }),
    verify: async ({ start, read }) => {
      start(`exec timeout 10 sh -c '${busyLoop}'`);
      const throttled = () => flatKeyed(read('cpu.stat'), isV2 ? 'throttled_usec' : 'throttled_time') ?? 0;
      const first = throttled();
      await until('it is throttled', async () => throttled() > first);
      const second = throttled();
      await until('it is throttled again', async () => throttled() > second);
    },
  },
  {
    name: 'a burst allows saved CPU time to be used beyond the quota',
    requested: { cpu_quota: '20000', cpu_period: '100000', unified: { 'cpu.max.burst': '20000' } },
    expected: onAnyVersion({ 'cpu.cfs_burst_us': '20000' }, { 'cpu.max.burst': '20000', 'cpu.max': '20000 100000' }),
    verify: async ({ run, read }) => {
      const bursts = () => flatKeyed(read('cpu.stat'), 'nr_bursts') ?? 0;
      const first = bursts();
      await until('it bursts', async () => {
        await run("sleep 0.3; timeout 0.1 sh -c 'while :; do :; done'");
        return bursts() > first;
      });
    },
  },
  {
    name: 'a container with few CPU shares gets less CPU time',
    requested: { cpu_shares: '2' },
    expected: onAnyVersion({ 'cpu.shares': '2' }, { 'cpu.weight': '1' }),
    verify: assertLessCpu,
  },
  {
    name: 'a container with cpu.idle gets less CPU time',
    requested: { cpu_shares: '1024', unified: { 'cpu.idle': '1' } },
    expected: { 'cpu.idle': '1' },
    verify: assertLessCpu,
  },
  {
    name: 'a container is restricted to its CPUs and memory nodes',
    requested: { cpuset_cpus: '0', cpuset_mems: '0' },
    expected: { 'cpuset.cpus': '0', 'cpuset.mems': '0' },
    verify: async ({ run }) => {
      // nproc calls sched_getaffinity(2).
      const { stdout } = await run('nproc; cat /proc/self/status');
      assert.match(stdout, /^1$/m);
      assert.match(stdout, /^Cpus_allowed_list:\t0$/m);
      assert.match(stdout, /^Mems_allowed_list:\t0$/m);
    },
  },
  {
    name: 'a process that exceeds the memory limit is OOM-killed',
    requested: { memory_limit_in_bytes: String(32 * MiB) },
    expected: onAnyVersion({ 'memory.limit_in_bytes': String(32 * MiB) }, { 'memory.max': String(32 * MiB) }),
    verify: assertOomKillBetween(8 * MiB, 64 * MiB),
  },
  {
    name: 'swap can be used up to the swap limit',
    skipReason: !hasSwap && 'no swap on this machine',
    requested: isV2
      ? { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.swap.max': String(32 * MiB) } }
      : { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(56 * MiB) },
    expected: onAnyVersion({ 'memory.memsw.limit_in_bytes': String(56 * MiB) }, { 'memory.swap.max': String(32 * MiB) }),
    verify: assertOomKillBetween(36 * MiB, 80 * MiB),
  },
  {
    name: 'a container with a swap limit of zero does not swap',
    skipReason: !hasSwap && 'no swap on this machine',
    requested: isV2
      ? { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.swap.max': '0' } }
      : { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) },
    expected: onAnyVersion({ 'memory.memsw.limit_in_bytes': String(24 * MiB) }, { 'memory.swap.max': '0' }),
    verify: assertOomKillBetween(8 * MiB, 36 * MiB),
  },
  {
    name: 'memory above memory.high is reclaimed',
    skipReason: onlyV2,
    requested: { memory_limit_in_bytes: String(128 * MiB), unified: { 'memory.high': String(16 * MiB) } },
    expected: { 'memory.high': String(16 * MiB) },
    verify: async ({ start, read }) => {
      const highEvents = () => flatKeyed(read('memory.events'), 'high') ?? 0;
      const first = highEvents();
      const child = start(allocate(32 * MiB));
      await until('memory.high is reached', async () => highEvents() > first);
      child.kill('SIGKILL');
    },
  },
  {
    name: 'memory below memory.min and memory.low is protected from reclaim',
    skipReason: onlyV2,
    requested: { unified: { 'memory.min': String(4 * MiB), 'memory.low': String(24 * MiB) } },
    expected: { 'memory.min': String(4 * MiB), 'memory.low': String(24 * MiB) },
    verify: assertProtected,
  },
  {
    name: 'memory.low becomes a soft limit',
    skipReason: isV2 && 'cgroup v1 only',
    requested: { unified: { 'memory.low': String(24 * MiB) } },
    expected: { 'memory.soft_limit_in_bytes': String(24 * MiB) },
  },
  {
    name: 'an OOM kill with memory.oom.group ends all processes',
    skipReason: onlyV2,
    requested: { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.oom.group': '1' } },
    expected: { 'memory.oom.group': '1' },
    verify: async ({ run }) => assert.doesNotMatch((await run(`${allocate(64 * MiB)}; echo outlived`)).stdout, /outlived/),
  },
  {
    name: 'an OOM kill without memory.oom.group ends one process',
    requested: { memory_limit_in_bytes: String(24 * MiB) },
    expected: isV2 ? { 'memory.oom.group': '0' } : {},
    verify: async ({ run }) => assert.equal((await run(`${allocate(64 * MiB)}; echo outlived`)).stdout, 'outlived\n'),
  },
  {
    name: 'a fork beyond the pids limit fails',
    requested: { unified: { 'pids.max': '5' } },
    expected: { 'pids.max': '5' },
    verify: async ({ run }) => {
      const { code, stderr } = await run('for i in 1 2 3 4 5 6; do sleep 1 & done; wait');
      assert.notEqual(code, 0);
      assert.match(stderr, /fork/);
    },
  },
  {
    name: 'huge pages beyond the limit cannot be mapped',
    skipReason: without('hugetlb') || (freeHugepages < 2 && 'no free huge pages'),
    requested: { hugepage_limits: [{ page_size: '2MB', limit: String(2 * MiB) }] },
    expected: onAnyVersion(
      { 'hugetlb.2MB.limit_in_bytes': String(2 * MiB) },
      { 'hugetlb.2MB.max': String(2 * MiB), 'hugetlb.2MB.rsvd.max': String(2 * MiB) },
    ),
    verify: async ({ run }) => {
      // mmap(2) of x86-64: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB.
      const map = (pages: number) => run(`perl -e 'print syscall(9, 0, ${pages * 2 * MiB}, 3, 0x40022, -1, 0) == -1 ? "refused" : "mapped"'`);
      assert.deepEqual([(await map(1)).stdout, (await map(2)).stdout], ['mapped', 'refused']);
    },
  },
  ioLimit(),
];

/** Uses getters: the disk's device number is known only when the tests run. */
function ioLimit(): Limit {
  const bytes = 2 * MiB;
  return {
    name: 'disk reads are throttled to the limit',
    skipReason: without(isV2 ? 'io' : 'blkio'),
    get requested() {
      return { unified: { 'io.max': `${disk.number} rbps=${MiB} wiops=1000` } };
    },
    get expected() {
      return onAnyVersion(
        { 'blkio.throttle.read_bps_device': `${disk.number} ${MiB}`, 'blkio.throttle.write_iops_device': `${disk.number} 1000` },
        { 'io.max': `${disk.number} rbps=${MiB} wbps=max riops=max wiops=1000` },
      );
    },
    verify: async ({ run }) => {
      const startedAt = performance.now();
      const { code, stderr } = await run(`dd if=${disk.device} of=/dev/null bs=64k count=${bytes / 65_536} iflag=direct`);
      assert.equal(code, 0, stderr);
      // It may be slower for other reasons, but not faster. The kernel does not throttle the first 100 ms.
      assert.ok(performance.now() - startedAt > (bytes / MiB) * 1000 * 0.8);
    },
  };
}

/** Asserts that `fits` bytes can be allocated and that allocating `exceeds` bytes causes an OOM kill. */
function assertOomKillBetween(fits: number, exceeds: number): (cgroup: TestCgroup) => Promise<void> {
  return async ({ run, path }) => {
    assert.equal((await run(allocate(fits))).stdout, 'allocated\n');
    const killed = await oomKills(facts, path);
    assert.notEqual((await run(`${allocate(exceeds)}; exit $?`)).code, 0);
    assert.ok(((await oomKills(facts, path)) ?? 0) > (killed ?? 0));
  };
}

/** Asserts that the cgroup gets less than a third of the CPU time of a cgroup with default shares on the same CPU. */
async function assertLessCpu(cgroup: TestCgroup): Promise<void> {
  const used = (one: TestCgroup) => (isV2 ? (flatKeyed(one.read('cpu.stat'), 'usage_usec') ?? 0) * 1000 : Number(one.read('cpuacct.usage')));
  await withCgroup({}, async (other) => {
    const startedWith = used(cgroup);
    for (const each of [cgroup, other]) each.start(`exec timeout 20 taskset -c 0 sh -c '${busyLoop}'`);
    const second = 1e9;
    await until('the other cgroup has used one second', async () => used(other) > second);
    assert.ok(used(other) > 3 * (used(cgroup) - startedWith), `${used(other)} and ${used(cgroup) - startedWith} ns`);
  });
}

/** Asserts that the cgroup's page cache is not reclaimed while a sibling fills the pod's memory. */
async function assertProtected(cgroup: TestCgroup): Promise<void> {
  const [own, others] = ['own', 'others'].map((name) => join(disk.directory, name)) as [string, string];
  writeFileSync(own, Buffer.alloc(16 * MiB, 1));
  writeFileSync(others, Buffer.alloc(96 * MiB, 1));
  execFileSync('sync');
  const pod = `${controllerDirectory(facts, cgroup.path, 'memory')}/..`;
  const limit = (file: string, value: string) => writeFileSync(join(pod, file), value);
  const drop = () => writeFileSync('/proc/sys/vm/drop_caches', '1');
  try {
    limit('memory.low', String(32 * MiB));
    drop();
    await cgroup.run(`cat ${own} >/dev/null`);
    limit('memory.max', String(48 * MiB));
    await withCgroup({}, async (sibling) => void (await sibling.run(`cat ${others} >/dev/null`)));
    assert.ok(Number(cgroup.read('memory.current')) > 14 * MiB, cgroup.read('memory.current'));
  } finally {
    limit('memory.max', 'max');
    limit('memory.low', '0');
  }
}

let driver: CgroupDriver;
let cgroupCount = 0;
/** The existing cgroups' resources, to apply them again after systemd has reset them. */
const activeCgroups = new Map<string, Resources>();

const usesSystemd = () => driver.name === 'systemd';
const parentCgroup = () => (usesSystemd() ? `berthlimits${process.pid}-pod.slice` : `/berth-limits-${process.pid}/pod`);
const adoptAll = () => Promise.all([...activeCgroups].map(([path, resources]) => driver.adopt(path, planCgroup(resources, facts))));

/** Creates a cgroup with an idle process as CreateContainer and StartContainer do, calls `body`, and removes it. */
async function withCgroup(requested: LinuxContainerResources, body: (cgroup: TestCgroup) => Promise<void>): Promise<void> {
  cgroupCount += 1;
  const path = driver.pathOf(parentCgroup(), `${process.pid}${String(cgroupCount).padStart(56, '0')}`);
  activeCgroups.set(path, resourcesFrom(requested));
  try {
    await driver.create(path, planCgroup(resourcesFrom(requested), facts));
    setDevices(facts, path, deviceRules({ isPrivileged: false, requested: [{ ...disk.rule, access: 'r' }] }));
    await startSleeper(facts, path);
    await driver.adopt(path, planCgroup(resourcesFrom(requested), facts));
    await body(cgroupAt(path));
  } finally {
    activeCgroups.delete(path);
    await killCgroup(facts, path, 20_000);
    await driver.remove(path);
  }
}

function cgroupAt(path: string): TestCgroup {
  return {
    path,
    run: (script) => runInCgroup(facts, path, script),
    start: (script) => startInCgroup(facts, path, script),
    read: (file) => readFileSync(`${controllerDirectory(facts, path, file.slice(0, file.indexOf('.')))}/${file}`, 'utf8').trimEnd(),
    update: async (message) => {
      const memoryBytes = readMemoryUsage(facts, path);
      const current = activeCgroups.get(path) ?? {};
      const { resources, writes } = planCgroupUpdate(current, resourcesFrom(message), facts, memoryBytes === null ? null : { memoryBytes });
      await driver.update(path, { writes, values: planCgroup(resources, facts) });
      activeCgroups.set(path, resources);
    },
  };
}

const valuesOf = (cgroup: TestCgroup, files: readonly string[]) => Object.fromEntries(files.map((file) => [file, cgroup.read(file)]));

/** Declares the tests. @param canReloadSystemd whether systemd is running and may be reloaded. */
export function limitTests({ driverName, canReloadSystemd }: { readonly driverName: CgroupDriverName; readonly canReloadSystemd: boolean }): void {
  describe(`limits on cgroup v${facts.version}, driver ${driverName}`, () => {
    before(() => prepare(driverName));
    after(async () => {
      driver.close();
      if (usesSystemd()) execFileSync('systemctl', ['stop', `berthlimits${process.pid}.slice`]);
      else await removeCgroup(facts, `/berth-limits-${process.pid}`);
      if (disk.device !== '') detachDisk(disk.device);
      rmSync(disk.directory, { recursive: true, force: true });
    });
    for (const limit of limits) limitTest(limit, canReloadSystemd);
    generalTests(canReloadSystemd);
  });
}

async function prepare(driverName: CgroupDriverName): Promise<void> {
  driver = await chooseCgroupDriver(driverName, facts, { defaultParent: '/berth', prefix: 'cri-berth' }, createLog('silent'));
  driver.onReset(() => void adoptAll());
  disk.directory = mkdtempSync(join(existsSync('/var/tmp') ? '/var/tmp' : tmpdir(), 'berth-limits-'));
  disk.device = attachDisk(join(disk.directory, 'disk'), 4 * MiB);
  const { rdev } = statSync(disk.device);
  disk.rule = { type: 'block', major: (rdev >> 8) & 0xfff, minor: rdev & 0xff };
  disk.number = `${disk.rule.major}:${disk.rule.minor}`;
}

function limitTest(limit: Limit, canReloadSystemd: boolean): void {
  const { name, skipReason, verify = async () => {} } = limit;
  const skip = skipReason || false;
  const assertApplied = async (cgroup: TestCgroup) => {
    const { expected } = limit;
    const files = Object.keys(expected);
    await until('the values are set', async () => JSON.stringify(valuesOf(cgroup, files)) === JSON.stringify(expected)).catch(() => {});
    assert.deepEqual(valuesOf(cgroup, files), expected);
    await verify(cgroup);
  };
  test(name, { skip }, () => withCgroup(limit.requested, assertApplied));
  test(`${name}, also after an update`, { skip }, () =>
    withCgroup({}, async (cgroup) => {
      await cgroup.update(limit.requested);
      await assertApplied(cgroup);
    }),
  );
  if (!canReloadSystemd) return;
  test(`${name}, also after a reload of systemd`, { skip }, () =>
    withCgroup(limit.requested, async (cgroup) => {
      execFileSync('systemctl', ['daemon-reload']);
      await assertApplied(cgroup);
    }),
  );
}

function generalTests(canReloadSystemd: boolean): void {
  const memoryFiles = isV2 ? ['memory.max', 'memory.swap.max'] : ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'];

  test('memory and swap limits can be raised and lowered in any order', async () => {
    const amounts = [32, 64, 128] as const;
    const pairs = amounts.flatMap((memory) => amounts.filter((total) => total >= memory).map((total) => [memory * MiB, total * MiB] as const));
    const steps = pairs.flatMap((from) => pairs.flatMap((to) => [from, to]));
    await withCgroup({}, async (cgroup) => {
      for (const [memory, total] of steps) {
        await cgroup.update({ memory_limit_in_bytes: String(memory), memory_swap_limit_in_bytes: String(total) });
        assert.deepEqual(memoryFiles.map(cgroup.read), [String(memory), String(isV2 ? total - memory : total)]);
      }
    });
  });

  test('a memory limit below the usage is rejected with both values', async () => {
    await withCgroup({ memory_limit_in_bytes: String(64 * MiB) }, async (cgroup) => {
      const user = cgroup.start(`perl -e '$n = ${32 * MiB}; $x = "x" x $n; sleep 1000'`);
      await until('the memory is allocated', async () => (readMemoryUsage(facts, cgroup.path) ?? 0) > 32 * MiB);
      const message = new RegExp(`memory limit ${16 * MiB} bytes is below the \\d+ bytes that the container uses`);
      await assert.rejects(cgroup.update({ memory_limit_in_bytes: String(16 * MiB) }), isFailure('FAILED_PRECONDITION', message));
      assert.equal(cgroup.read(memoryFiles[0] as string), String(64 * MiB));
      assert.equal(user.exitCode, null);
    });
  });

  test('an update is rolled back if its last value is rejected', async () => {
    const first: LinuxContainerResources = {
      cpu_shares: '512',
      cpu_quota: '20000',
      cpuset_cpus: '0',
      memory_limit_in_bytes: String(64 * MiB),
      unified: { 'io.max': `${disk.number} rbps=${MiB}`, 'pids.max': '50' },
    };
    const device = isV2 ? 'io.max' : 'blkio.throttle.read_bps_device';
    const cpu = isV2 ? ['cpu.weight', 'cpu.max'] : ['cpu.shares', 'cpu.cfs_quota_us'];
    const files = [...memoryFiles, ...cpu, isV2 ? 'cpuset.cpus.effective' : 'cpuset.cpus', device];
    for (const initial of [first, { unified: { 'pids.max': '50' } }]) {
      await withCgroup(initial, async (cgroup) => {
        const values = valuesOf(cgroup, [...files, 'pids.max']);
        const change: LinuxContainerResources = {
          cpu_shares: '1024',
          cpu_quota: '40000',
          cpuset_cpus: '1',
          memory_limit_in_bytes: String(96 * MiB),
          unified: { 'io.max': `${disk.number} rbps=${2 * MiB}`, 'pids.max': 'many' },
        };
        const message = new RegExp(`^write many to pids.max of ${cgroup.path}: invalid argument \\(EINVAL\\)$`);
        await assert.rejects(cgroup.update(change), isFailure('INVALID_ARGUMENT', message));
        assert.deepEqual(valuesOf(cgroup, [...files, 'pids.max']), values);
      });
    }
  });

  test('a limit on a missing device or resource is rejected by name', async () => {
    await withCgroup({}, async (cgroup) => {
      const update = cgroup.update({ unified: { 'io.max': '250:250 rbps=1000' } });
      await assert.rejects(update, isFailure('FAILED_PRECONDITION', /^write 250:250 .*: no such device \(ENODEV\)$/));
      for (const [file, value] of [
        ['rdma.max', 'none hca_handle=1'],
        ['misc.max', 'none 1'],
      ] as const) {
        const controller = file.slice(0, 4);
        const message = facts.controllers.has(controller)
          ? `write ${value} to ${file} of ${cgroup.path}: `
          : `set ${file}: the node has no cgroup controller`;
        await assert.rejects(cgroup.update({ unified: { [file]: value } }), new RegExp(message));
      }
    });
  });

  test('the device policy survives an update and a reload', async () => {
    const node = join(disk.directory, 'kmsg');
    await withCgroup({}, async (cgroup) => {
      await cgroup.run(`mknod ${node} c 1 11`);
      const assertPolicy = async () => {
        const { stdout, stderr } = await cgroup.run(`: </dev/null && : </dev/urandom && : <${disk.device} && echo allowed; : <${node} && echo other`);
        assert.equal(stdout, 'allowed\n');
        assert.match(stderr, /not permitted/);
      };
      await assertPolicy();
      await cgroup.update({ cpu_shares: '100', memory_limit_in_bytes: String(64 * MiB) });
      await assertPolicy();
      if (!canReloadSystemd) return;
      execFileSync('systemctl', ['daemon-reload']);
      await assertPolicy();
    });
  });
}

function isFailure(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof BerthError);
    assert.match(error.message, message);
    assert.equal(error.code, code);
    return true;
  };
}
