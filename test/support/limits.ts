/**
 * Every limit that a container can have, as the kubelet asks for it, and how to see that the kernel keeps it. One table for cgroup v1, v2, and v2
 * below systemd: limitTests() declares the same tests on whatever it runs on.
 *
 * Makes cgroups and a slice under names of its own, and removes them.
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
import { type Ended, runIn, startIn, startSleeper, until } from './in-cgroup.ts';
import { attachDisk, detachDisk } from './loop-disk.ts';

const facts = probeCgroups();
const isV2 = facts.version === 2;
const MiB = 1 << 20;

/** A container's cgroup, as far as limits go. */
type Cell = {
  readonly path: string;
  readonly run: (script: string) => Promise<Ended>;
  readonly start: (script: string) => ChildProcess;
  /** Text of a file; its controller is the name's first word. */
  readonly read: (file: string) => string;
  readonly update: (resources: LinuxContainerResources) => Promise<void>;
};

type Limit = {
  readonly name: string;
  /** Why this node cannot show it. */
  readonly lacks?: string | false | undefined;
  /** As the kubelet sends it. */
  readonly asked: LinuxContainerResources;
  /** What its files say then. */
  readonly values: Readonly<Record<string, string>>;
  /** Asserts that the kernel keeps it. */
  readonly holds?: (cell: Cell) => Promise<void>;
};

const onlyV2 = !isV2 && 'cgroup v2 only';
const without = (controller: string) => !facts.controllers.has(controller) && `no cgroup controller ${controller}`;
const hasSwap = readFileSync('/proc/swaps', 'utf8').trim().split('\n').length > 1;
const freeHugepages = Number(/^HugePages_Free: *(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
const onAnyVersion = (v1: Record<string, string>, v2: Record<string, string>) => (isV2 ? v2 : v1);

/** Holds so many bytes of its own. */
const hold = (bytes: number) => `perl -e '$n = ${bytes}; $x = "x" x $n; print "held\\n"'`;
const spin = 'while :; do :; done';

/** The disk whose reads are limited. */
const disk = { directory: '', device: '', number: '', rule: { type: 'block' as const, major: 0, minor: 0 } };

const limits: readonly Limit[] = [
  {
    name: 'a quota throttles',
    asked: { cpu_quota: '5000', cpu_period: '50000' },
    values: onAnyVersion({ 'cpu.cfs_quota_us': '5000', 'cpu.cfs_period_us': '50000' }, { 'cpu.max': '5000 50000' }),
    holds: async ({ start, read }) => {
      start(`exec timeout 10 sh -c '${spin}'`);
      const throttled = () => flatKeyed(read('cpu.stat'), isV2 ? 'throttled_usec' : 'throttled_time') ?? 0;
      const first = throttled();
      await until('it is throttled', async () => throttled() > first);
      const second = throttled();
      await until('it is throttled further', async () => throttled() > second);
    },
  },
  {
    name: 'a burst lets saved time be used beyond the quota',
    asked: { cpu_quota: '20000', cpu_period: '100000', unified: { 'cpu.max.burst': '20000' } },
    values: onAnyVersion({ 'cpu.cfs_burst_us': '20000' }, { 'cpu.max.burst': '20000', 'cpu.max': '20000 100000' }),
    holds: async ({ run, read }) => {
      const bursts = () => flatKeyed(read('cpu.stat'), 'nr_bursts') ?? 0;
      const first = bursts();
      await until('it bursts', async () => {
        await run("sleep 0.3; timeout 0.1 sh -c 'while :; do :; done'");
        return bursts() > first;
      });
    },
  },
  {
    name: 'few shares get less of a cpu than many',
    asked: { cpu_shares: '2' },
    values: onAnyVersion({ 'cpu.shares': '2' }, { 'cpu.weight': '1' }),
    holds: isOutrun,
  },
  {
    name: 'an idle container gets less of a cpu than any other',
    asked: { cpu_shares: '1024', unified: { 'cpu.idle': '1' } },
    values: { 'cpu.idle': '1' },
    holds: isOutrun,
  },
  {
    name: 'a container sees the cpus and memory nodes given to it',
    asked: { cpuset_cpus: '0', cpuset_mems: '0' },
    values: { 'cpuset.cpus': '0', 'cpuset.mems': '0' },
    holds: async ({ run }) => {
      // nproc asks sched_getaffinity(2).
      const { stdout } = await run('nproc; cat /proc/self/status');
      assert.match(stdout, /^1$/m);
      assert.match(stdout, /^Cpus_allowed_list:\t0$/m);
      assert.match(stdout, /^Mems_allowed_list:\t0$/m);
    },
  },
  {
    name: 'what is above the memory limit is killed',
    asked: { memory_limit_in_bytes: String(32 * MiB) },
    values: onAnyVersion({ 'memory.limit_in_bytes': String(32 * MiB) }, { 'memory.max': String(32 * MiB) }),
    holds: killsBetween(8 * MiB, 64 * MiB),
  },
  {
    name: 'swap beside memory can be used up to its own limit',
    lacks: !hasSwap && 'no swap on this machine',
    asked: isV2
      ? { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.swap.max': String(32 * MiB) } }
      : { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(56 * MiB) },
    values: onAnyVersion({ 'memory.memsw.limit_in_bytes': String(56 * MiB) }, { 'memory.swap.max': String(32 * MiB) }),
    holds: killsBetween(36 * MiB, 80 * MiB),
  },
  {
    name: 'a container that may not swap does not',
    lacks: !hasSwap && 'no swap on this machine',
    asked: isV2
      ? { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.swap.max': '0' } }
      : { memory_limit_in_bytes: String(24 * MiB), memory_swap_limit_in_bytes: String(24 * MiB) },
    values: onAnyVersion({ 'memory.memsw.limit_in_bytes': String(24 * MiB) }, { 'memory.swap.max': '0' }),
    holds: killsBetween(8 * MiB, 36 * MiB),
  },
  {
    name: 'memory above memory.high is reclaimed',
    lacks: onlyV2,
    asked: { memory_limit_in_bytes: String(128 * MiB), unified: { 'memory.high': String(16 * MiB) } },
    values: { 'memory.high': String(16 * MiB) },
    holds: async ({ start, read }) => {
      const exceeded = () => flatKeyed(read('memory.events'), 'high') ?? 0;
      const first = exceeded();
      const child = start(hold(32 * MiB));
      await until('it is held back', async () => exceeded() > first);
      child.kill('SIGKILL');
    },
  },
  {
    name: 'memory below memory.min and memory.low stays while others need it',
    lacks: onlyV2,
    asked: { unified: { 'memory.min': String(4 * MiB), 'memory.low': String(24 * MiB) } },
    values: { 'memory.min': String(4 * MiB), 'memory.low': String(24 * MiB) },
    holds: isProtected,
  },
  {
    name: 'a reservation is a soft limit',
    lacks: isV2 && 'cgroup v1 only',
    asked: { unified: { 'memory.low': String(24 * MiB) } },
    values: { 'memory.soft_limit_in_bytes': String(24 * MiB) },
  },
  {
    name: 'a kill for want of memory ends the whole group',
    lacks: onlyV2,
    asked: { memory_limit_in_bytes: String(24 * MiB), unified: { 'memory.oom.group': '1' } },
    values: { 'memory.oom.group': '1' },
    holds: async ({ run }) => assert.doesNotMatch((await run(`${hold(64 * MiB)}; echo outlived`)).stdout, /outlived/),
  },
  {
    name: 'a kill for want of memory ends one process where no group is asked for',
    asked: { memory_limit_in_bytes: String(24 * MiB) },
    values: isV2 ? { 'memory.oom.group': '0' } : {},
    holds: async ({ run }) => assert.equal((await run(`${hold(64 * MiB)}; echo outlived`)).stdout, 'outlived\n'),
  },
  {
    name: 'a fork above the limit of processes is refused',
    asked: { unified: { 'pids.max': '5' } },
    values: { 'pids.max': '5' },
    holds: async ({ run }) => {
      const { code, stderr } = await run('for i in 1 2 3 4 5 6; do sleep 1 & done; wait');
      assert.notEqual(code, 0);
      assert.match(stderr, /fork/);
    },
  },
  {
    name: 'huge pages above their limit are refused',
    lacks: without('hugetlb') || (freeHugepages < 2 && 'no free huge pages'),
    asked: { hugepage_limits: [{ page_size: '2MB', limit: String(2 * MiB) }] },
    values: onAnyVersion(
      { 'hugetlb.2MB.limit_in_bytes': String(2 * MiB) },
      { 'hugetlb.2MB.max': String(2 * MiB), 'hugetlb.2MB.rsvd.max': String(2 * MiB) },
    ),
    holds: async ({ run }) => {
      // mmap(2) of x86-64: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB.
      const map = (pages: number) => run(`perl -e 'print syscall(9, 0, ${pages * 2 * MiB}, 3, 0x40022, -1, 0) == -1 ? "refused" : "mapped"'`);
      assert.deepEqual([(await map(1)).stdout, (await map(2)).stdout], ['mapped', 'refused']);
    },
  },
  ioLimit(),
];

/** The disk's number is known when the tests run. */
function ioLimit(): Limit {
  const bytes = 2 * MiB;
  return {
    name: 'reads of a disk keep below their rate',
    lacks: without(isV2 ? 'io' : 'blkio'),
    get asked() {
      return { unified: { 'io.max': `${disk.number} rbps=${MiB} wiops=1000` } };
    },
    get values() {
      return onAnyVersion(
        { 'blkio.throttle.read_bps_device': `${disk.number} ${MiB}`, 'blkio.throttle.write_iops_device': `${disk.number} 1000` },
        { 'io.max': `${disk.number} rbps=${MiB} wbps=max riops=max wiops=1000` },
      );
    },
    holds: async ({ run }) => {
      const startedAt = performance.now();
      const { code, stderr } = await run(`dd if=${disk.device} of=/dev/null bs=64k count=${bytes / 65_536} iflag=direct`);
      assert.equal(code, 0, stderr);
      // Slower for other reasons it may be; faster not. The kernel lets the first tenth of a second pass.
      assert.ok(performance.now() - startedAt > (bytes / MiB) * 1000 * 0.8);
    },
  };
}

/** Holds what fits, and is killed for what does not. */
function killsBetween(fits: number, exceeds: number): (cell: Cell) => Promise<void> {
  return async ({ run, path }) => {
    assert.equal((await run(hold(fits))).stdout, 'held\n');
    const killed = await oomKills(facts, path);
    assert.notEqual((await run(`${hold(exceeds)}; exit $?`)).code, 0);
    assert.ok(((await oomKills(facts, path)) ?? 0) > (killed ?? 0));
  };
}

/** Beside a container of the default shares, on one cpu. */
async function isOutrun(cell: Cell): Promise<void> {
  const used = (one: Cell) => (isV2 ? (flatKeyed(one.read('cpu.stat'), 'usage_usec') ?? 0) * 1000 : Number(one.read('cpuacct.usage')));
  await withCell({}, async (other) => {
    const startedWith = used(cell);
    for (const each of [cell, other]) each.start(`exec timeout 20 taskset -c 0 sh -c '${spin}'`);
    const second = 1e9;
    await until('the other had a second', async () => used(other) > second);
    assert.ok(used(other) > 3 * (used(cell) - startedWith), `${used(other)} and ${used(cell) - startedWith} ns`);
  });
}

/** The page cache of the container stays while a sibling fills the pod. */
async function isProtected(cell: Cell): Promise<void> {
  const [own, others] = ['own', 'others'].map((name) => join(disk.directory, name)) as [string, string];
  writeFileSync(own, Buffer.alloc(16 * MiB, 1));
  writeFileSync(others, Buffer.alloc(96 * MiB, 1));
  execFileSync('sync');
  const pod = `${controllerDirectory(facts, cell.path, 'memory')}/..`;
  const limit = (file: string, value: string) => writeFileSync(join(pod, file), value);
  const drop = () => writeFileSync('/proc/sys/vm/drop_caches', '1');
  try {
    limit('memory.low', String(32 * MiB));
    drop();
    await cell.run(`cat ${own} >/dev/null`);
    limit('memory.max', String(48 * MiB));
    await withCell({}, async (sibling) => void (await sibling.run(`cat ${others} >/dev/null`)));
    assert.ok(Number(cell.read('memory.current')) > 14 * MiB, cell.read('memory.current'));
  } finally {
    limit('memory.max', 'max');
    limit('memory.low', '0');
  }
}

let driver: CgroupDriver;
let cells = 0;
/** Of the cells there are, for a driver that has lost their values. */
const standing = new Map<string, Resources>();

const isBelowSystemd = () => driver.name === 'systemd';
const parentOf = () => (isBelowSystemd() ? `berthlimits${process.pid}-pod.slice` : `/berth-limits-${process.pid}/pod`);
const adoptAll = () => Promise.all([...standing].map(([path, resources]) => driver.adopt(path, planCgroup(resources, facts))));

/** A container's cgroup with a process that does nothing, made as CreateContainer and StartContainer make one; it is gone after the body. */
async function withCell(asked: LinuxContainerResources, body: (cell: Cell) => Promise<void>): Promise<void> {
  cells += 1;
  const path = driver.pathOf(parentOf(), `${process.pid}${String(cells).padStart(56, '0')}`);
  standing.set(path, resourcesFrom(asked));
  try {
    await driver.create(path, planCgroup(resourcesFrom(asked), facts));
    setDevices(facts, path, deviceRules({ isPrivileged: false, requested: [{ ...disk.rule, access: 'r' }] }));
    await startSleeper(facts, path);
    await driver.adopt(path, planCgroup(resourcesFrom(asked), facts));
    await body(cellAt(path));
  } finally {
    standing.delete(path);
    await killCgroup(facts, path, 20_000);
    await driver.remove(path);
  }
}

function cellAt(path: string): Cell {
  return {
    path,
    run: (script) => runIn(facts, path, script),
    start: (script) => startIn(facts, path, script),
    read: (file) => readFileSync(`${controllerDirectory(facts, path, file.slice(0, file.indexOf('.')))}/${file}`, 'utf8').trimEnd(),
    update: async (message) => {
      const memoryBytes = readMemoryUsage(facts, path);
      const current = standing.get(path) ?? {};
      const { resources, writes } = planCgroupUpdate(current, resourcesFrom(message), facts, memoryBytes === null ? null : { memoryBytes });
      await driver.update(path, { writes, values: planCgroup(resources, facts) });
      standing.set(path, resources);
    },
  };
}

const valuesOf = (cell: Cell, files: readonly string[]) => Object.fromEntries(files.map((file) => [file, cell.read(file)]));

/** Declares the tests. @param reloads whether systemd runs here and may be reloaded. */
export function limitTests({ wanted, reloads }: { readonly wanted: CgroupDriverName; readonly reloads: boolean }): void {
  describe(`limits on cgroup v${facts.version}, driver ${wanted}`, () => {
    before(() => prepare(wanted));
    after(async () => {
      driver.close();
      if (isBelowSystemd()) execFileSync('systemctl', ['stop', `berthlimits${process.pid}.slice`]);
      else await removeCgroup(facts, `/berth-limits-${process.pid}`);
      if (disk.device !== '') detachDisk(disk.device);
      rmSync(disk.directory, { recursive: true, force: true });
    });
    for (const limit of limits) limitTest(limit, reloads);
    wholeTests(reloads);
  });
}

async function prepare(wanted: CgroupDriverName): Promise<void> {
  driver = await chooseCgroupDriver(wanted, facts, { defaultParent: '/berth', prefix: 'cri-berth' }, createLog('silent'));
  driver.onReset(() => void adoptAll());
  disk.directory = mkdtempSync(join(existsSync('/var/tmp') ? '/var/tmp' : tmpdir(), 'berth-limits-'));
  disk.device = attachDisk(join(disk.directory, 'disk'), 4 * MiB);
  const { rdev } = statSync(disk.device);
  disk.rule = { type: 'block', major: (rdev >> 8) & 0xfff, minor: rdev & 0xff };
  disk.number = `${disk.rule.major}:${disk.rule.minor}`;
}

function limitTest(limit: Limit, reloads: boolean): void {
  const { name, lacks, holds = async () => {} } = limit;
  const skip = lacks || false;
  const isKept = async (cell: Cell) => {
    const { values } = limit;
    await until('the values are there', async () => JSON.stringify(valuesOf(cell, Object.keys(values))) === JSON.stringify(values)).catch(() => {});
    assert.deepEqual(valuesOf(cell, Object.keys(values)), values);
    await holds(cell);
  };
  test(name, { skip }, () => withCell(limit.asked, isKept));
  test(`${name}, also when an update asks for it`, { skip }, () =>
    withCell({}, async (cell) => {
      await cell.update(limit.asked);
      await isKept(cell);
    }),
  );
  if (!reloads) return;
  test(`${name}, also after a reload of systemd`, { skip }, () =>
    withCell(limit.asked, async (cell) => {
      execFileSync('systemctl', ['daemon-reload']);
      await isKept(cell);
    }),
  );
}

function wholeTests(reloads: boolean): void {
  const growing = isV2 ? ['memory.max', 'memory.swap.max'] : ['memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'];

  test('memory and swap grow and shrink in any order', async () => {
    const amounts = [32, 64, 128] as const;
    const pairs = amounts.flatMap((memory) => amounts.filter((total) => total >= memory).map((total) => [memory * MiB, total * MiB] as const));
    const steps = pairs.flatMap((from) => pairs.flatMap((to) => [from, to]));
    await withCell({}, async (cell) => {
      for (const [memory, total] of steps) {
        await cell.update({ memory_limit_in_bytes: String(memory), memory_swap_limit_in_bytes: String(total) });
        assert.deepEqual(growing.map(cell.read), [String(memory), String(isV2 ? total - memory : total)]);
      }
    });
  });

  test('a memory limit below what is in use is refused, and says both', async () => {
    await withCell({ memory_limit_in_bytes: String(64 * MiB) }, async (cell) => {
      const held = cell.start(`perl -e '$n = ${32 * MiB}; $x = "x" x $n; sleep 1000'`);
      await until('it is held', async () => (readMemoryUsage(facts, cell.path) ?? 0) > 32 * MiB);
      const message = new RegExp(`memory limit ${16 * MiB} bytes is below the \\d+ bytes that the container uses`);
      await assert.rejects(cell.update({ memory_limit_in_bytes: String(16 * MiB) }), isFailure('FAILED_PRECONDITION', message));
      assert.equal(cell.read(growing[0] as string), String(64 * MiB));
      assert.equal(held.exitCode, null);
    });
  });

  test('of an update whose last value is refused nothing stays', async () => {
    const first: LinuxContainerResources = {
      cpu_shares: '512',
      cpu_quota: '20000',
      cpuset_cpus: '0',
      memory_limit_in_bytes: String(64 * MiB),
      unified: { 'io.max': `${disk.number} rbps=${MiB}`, 'pids.max': '50' },
    };
    const device = isV2 ? 'io.max' : 'blkio.throttle.read_bps_device';
    const cpu = isV2 ? ['cpu.weight', 'cpu.max'] : ['cpu.shares', 'cpu.cfs_quota_us'];
    const files = [...growing, ...cpu, isV2 ? 'cpuset.cpus.effective' : 'cpuset.cpus', device];
    for (const standsBefore of [first, { unified: { 'pids.max': '50' } }]) {
      await withCell(standsBefore, async (cell) => {
        const values = valuesOf(cell, [...files, 'pids.max']);
        const change: LinuxContainerResources = {
          cpu_shares: '1024',
          cpu_quota: '40000',
          cpuset_cpus: '1',
          memory_limit_in_bytes: String(96 * MiB),
          unified: { 'io.max': `${disk.number} rbps=${2 * MiB}`, 'pids.max': 'many' },
        };
        const message = new RegExp(`^writing many to pids.max of ${cell.path}: invalid argument \\(EINVAL\\)$`);
        await assert.rejects(cell.update(change), isFailure('INVALID_ARGUMENT', message));
        assert.deepEqual(valuesOf(cell, [...files, 'pids.max']), values);
      });
    }
  });

  test('a limit of a device or resource that is not there is refused by its name', async () => {
    await withCell({}, async (cell) => {
      const update = cell.update({ unified: { 'io.max': '250:250 rbps=1000' } });
      await assert.rejects(update, isFailure('FAILED_PRECONDITION', /^writing 250:250 .*: no such device \(ENODEV\)$/));
      for (const [file, value] of [
        ['rdma.max', 'none hca_handle=1'],
        ['misc.max', 'none 1'],
      ] as const) {
        const controller = file.slice(0, 4);
        const message = facts.controllers.has(controller)
          ? `writing ${value} to ${file} of ${cell.path}: `
          : `setting ${file}: the node has no cgroup controller`;
        await assert.rejects(cell.update({ unified: { [file]: value } }), new RegExp(message));
      }
    });
  });

  test('devices stay refused and allowed through an update and a reload', async () => {
    const node = join(disk.directory, 'kmsg');
    await withCell({}, async (cell) => {
      await cell.run(`mknod ${node} c 1 11`);
      const isKept = async () => {
        const { stdout, stderr } = await cell.run(`: </dev/null && : </dev/urandom && : <${disk.device} && echo allowed; : <${node} && echo other`);
        assert.equal(stdout, 'allowed\n');
        assert.match(stderr, /not permitted/);
      };
      await isKept();
      await cell.update({ cpu_shares: '100', memory_limit_in_bytes: String(64 * MiB) });
      await isKept();
      if (!reloads) return;
      execFileSync('systemctl', ['daemon-reload']);
      await isKept();
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
