/**
 * Cgroups on the running kernel, v1 or v2: enforced limits, failed updates, killing and removal.
 *
 * Needs root. Creates cgroups only below a parent with a unique name, and removes them.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { planCgroup, planCgroupUpdate } from '../../src/engine/cgroup/cgroup.ts';
import { deviceRules } from '../../src/engine/cgroup/device-rules.ts';
import type { Resources } from '../../src/engine/state/spec.ts';
import { BerthError } from '../../src/lib/errors.ts';
import { setDeviceProgram } from '../../src/sys/cgroup/bpf.ts';
import { type CgroupFacts, type CgroupWrite, cgroupDirectories, controllerDirectory } from '../../src/sys/cgroup/cgroup-facts.ts';
import { freeze, killCgroup, processes, thaw } from '../../src/sys/cgroup/cgroup-processes.ts';
import { oomKills, readMemoryUsage, updateCgroup, writeCgroup } from '../../src/sys/cgroup/cgroup-values.ts';
import {
  type CgroupFds,
  createCgroup,
  openCgroup,
  openProcessCgroup,
  probeCgroups,
  removeCgroup,
  removeIfEmpty,
  setDevices,
} from '../../src/sys/cgroup/cgroups.ts';
import * as bed from '../support/in-cgroup.ts';

const facts = probeCgroups();
const isV2 = facts.version === 2;
const parent = `/berth-test-${process.pid}`;
const unifiedDirectory = facts.version === 2 ? facts.root : facts.unifiedRoot;
const killTimeoutMs = 20_000;
const MiB = 1024 * 1024;

/** Runs the body with a new cgroup, which is killed and removed afterwards. */
async function withCgroup(body: (path: string) => Promise<void>, of: CgroupFacts = facts): Promise<void> {
  const path = `${parent}/pod/${Math.random().toString(16).slice(2)}`;
  createCgroup(of, path);
  try {
    await body(path);
  } finally {
    await killCgroup(of, path, killTimeoutMs);
    await removeCgroup(of, path);
  }
}

const startInCgroup = (path: string, script: string, of: CgroupFacts = facts, opened?: CgroupFds) => bed.startInCgroup(of, path, script, opened);
const startSleeper = (path: string, opened?: CgroupFds) => bed.startSleeper(facts, path, opened);
const runInCgroup = (path: string, script: string) => bed.runInCgroup(facts, path, script);

const apply = (path: string, resources: Resources): void => writeCgroup(facts, path, planCgroup(resources, facts));
const readValue = (path: string, controller: string, file: string): string =>
  readFileSync(`${controllerDirectory(facts, path, controller)}/${file}`, 'utf8').trim();
const existingDirectories = (path: string): string[] => cgroupDirectories(facts, path).filter((directory) => existsSync(directory));

describe(`cgroup v${facts.version}`, () => {
  after(async () => {
    await removeCgroup(facts, parent);
    assert.deepEqual(existingDirectories(parent), []);
  });

  test('probeCgroups() finds the controllers for limits', () => {
    for (const controller of ['cpu', 'cpuset', 'memory', 'pids']) assert.ok(facts.controllers.has(controller), controller);
  });

  test('createCgroup() creates the cgroup in every hierarchy, and accepts an existing one', async () => {
    await withCgroup(async (path) => {
      assert.deepEqual(existingDirectories(path), cgroupDirectories(facts, path));
      createCgroup(facts, path);
      assert.notEqual(readValue(path, 'cpuset', isV2 ? 'cpuset.cpus.effective' : 'cpuset.cpus'), '');
    });
  });

  test('createCgroup() leaves nothing behind when it fails', () => {
    const path = `${parent}/two\nlines`;
    assert.throws(() => createCgroup(facts, path), /create cgroup .*: invalid argument \(EINVAL\)$/s);
    assert.deepEqual(existingDirectories(path), []);
  });

  test('createCgroup() below a cgroup with processes creates one without controllers, and setting a limit fails with the reason', {
    skip: !isV2 && 'cgroup v2 only',
  }, async () => {
    await withCgroup(async (path) => {
      await startSleeper(path);
      createCgroup(facts, `${path}/below`);
      assert.equal((await runInCgroup(`${path}/below`, 'true')).code, 0);
      const reason = 'no such file or directory (ENOENT); controller pids is not enabled for this cgroup';
      assert.throws(
        () => apply(`${path}/below`, { unified: { 'pids.max': '5' } }),
        isFailure('FAILED_PRECONDITION', `write 5 to pids.max of ${path}/below: ${reason}`),
      );
    });
  });

  test('a process that enters by openCgroup() is in the cgroup of every hierarchy', async () => {
    await withCgroup(async (path) => {
      const { stdout } = await runInCgroup(path, 'cat /proc/self/cgroup');
      const entered = stdout
        .trim()
        .split('\n')
        .filter((line) => line.endsWith(path));
      assert.equal(entered.length, cgroupDirectories(facts, path).length, stdout);
    });
  });

  test('openProcessCgroup() finds a process that moved into another cgroup', async () => {
    await withCgroup(async (path) => {
      const own = `${controllerDirectory(facts, path, 'pids')}/own`;
      const delegate = isV2 ? `echo +pids >${own}/../cgroup.subtree_control;` : '';
      const child = startInCgroup(path, `mkdir ${own}; echo 0 >${own}/cgroup.procs; ${delegate} exec sleep 1000`);
      await bed.waitForSleep(child);
      const second = await startSleeper(path, openProcessCgroup(facts, path, child.pid ?? 0));
      // In v2, a cgroup that enables controllers for its children has no processes: the second one joins the first one's cgroup.
      assert.deepEqual(await processes(facts, `${path}/own`), isV2 ? [child.pid, second] : [child.pid]);
    });
  });

  test("openProcessCgroup() opens the container's cgroup if the process is elsewhere or has exited", async () => {
    await withCgroup(async (path) => {
      for (const pid of [process.pid, 0x3f_ffff]) {
        const sleeper = await startSleeper(path, openProcessCgroup(facts, path, pid));
        assert.ok((await processes(facts, path)).includes(sleeper));
      }
    });
  });

  test('openCgroup() names a missing cgroup in its error', () => {
    assert.throws(() => openCgroup(facts, `${parent}/none`), /open cgroup \/berth-test-\d+\/none: no such file or directory \(ENOENT\)$/);
  });

  test('a container that exceeds its memory limit is killed, and the kill is counted', async () => {
    await withCgroup(async (path) => {
      apply(path, { memoryLimitBytes: 24 * MiB });
      assert.equal(await oomKills(facts, path), 0);
      const { code } = await runInCgroup(path, 'head -c 200000000 /dev/zero | tail >/dev/null');
      assert.notEqual(code, 0);
      assert.ok(((await oomKills(facts, path)) ?? 0) >= 1);
    });
  });

  test('a kill in a cgroup created by the container is counted', async () => {
    await withCgroup(async (path) => {
      apply(path, { memoryLimitBytes: 24 * MiB });
      mkdirSync(`${controllerDirectory(facts, path, 'memory')}/own`);
      const own = `${controllerDirectory(facts, path, 'memory')}/own/cgroup.procs`;
      await runInCgroup(path, `echo 0 >${own}; head -c 200000000 /dev/zero | tail >/dev/null`);
      assert.ok(((await oomKills(facts, path)) ?? 0) >= 1);
    });
  });

  test('oomKills() and readMemoryUsage() return null for a missing cgroup', async () => {
    assert.equal(await oomKills(facts, `${parent}/none`), null);
    assert.equal(readMemoryUsage(facts, `${parent}/none`), null);
  });

  test('readMemoryUsage() includes memory of a process', async () => {
    await withCgroup(async (path) => {
      startInCgroup(path, 'held=$(head -c 8000000 /dev/zero | tr "\\0" x); sleep 1000; echo $held');
      await bed.until('8 MB are allocated', async () => (readMemoryUsage(facts, path) ?? 0) > 8_000_000);
    });
  });

  test('a container cannot have more processes than its limit', async () => {
    await withCgroup(async (path) => {
      apply(path, { unified: { 'pids.max': '4' } });
      const { code, stderr } = await runInCgroup(path, 'for i in 1 2 3 4 5 6; do sleep 1 & done; wait');
      assert.notEqual(code, 0);
      assert.match(stderr, /fork/);
    });
  });

  test('a container is restricted to its CPUs', async () => {
    await withCgroup(async (path) => {
      apply(path, { cpusetCpus: '0', cpusetMems: '0' });
      assert.match((await runInCgroup(path, 'cat /proc/self/status')).stdout, /^Cpus_allowed_list:\t0$/m);
    });
  });

  test('CPU shares, quota and period are set in the kernel', async () => {
    await withCgroup(async (path) => {
      apply(path, { cpuShares: 512, cpuQuotaUs: 50_000, cpuPeriodUs: 20_000 });
      const found = isV2
        ? [readValue(path, 'cpu', 'cpu.weight'), readValue(path, 'cpu', 'cpu.max')]
        : [readValue(path, 'cpu', 'cpu.shares'), readValue(path, 'cpu', 'cpu.cfs_quota_us'), readValue(path, 'cpu', 'cpu.cfs_period_us')];
      assert.deepEqual(found, isV2 ? ['59', '50000 20000'] : ['512', '50000', '20000']);
    });
  });

  test('huge page limits are set if the kernel supports them, and a limit of 0 is accepted everywhere', async () => {
    await withCgroup(async (path) => {
      apply(path, { hugepageLimits: [...facts.hugepageSizes, '3MB'].map((pageSize) => ({ pageSize, limitBytes: 0 })) });
      if (!facts.controllers.has('hugetlb') || !facts.hugepageSizes.includes('2MB')) return;
      assert.equal(readValue(path, 'hugetlb', isV2 ? 'hugetlb.2MB.max' : 'hugetlb.2MB.limit_in_bytes'), '0');
    });
  });

  test('unified values are written to their files, and an unknown name is in the error', { skip: !isV2 && 'cgroup v2 only' }, async () => {
    await withCgroup(async (path) => {
      apply(path, { memoryLimitBytes: 64 * MiB, unified: { 'memory.high': String(32 * MiB), 'memory.oom.group': '1' } });
      assert.deepEqual([readValue(path, 'memory', 'memory.high'), readValue(path, 'memory', 'memory.oom.group')], [String(32 * MiB), '1']);
      assert.throws(
        () => apply(path, { unified: { 'memory.nonsense': '1' } }),
        isFailure('FAILED_PRECONDITION', `write 1 to memory.nonsense of ${path}: no such file or directory (ENOENT)`),
      );
    });
  });

  describe('devices', () => {
    // Not in /tmp, which newer systemd versions mount with nodev.
    const directory = mkdtempSync('/var/tmp/berth-devices-');
    const node = join(directory, 'kmsg');
    after(() => rmSync(directory, { recursive: true }));
    const kmsg = { type: 'char', major: 1, minor: 11 } as const;
    const openForReading = `: <${node} && echo opened`;

    test('a container can create any device node, but open only the standard ones', async () => {
      await withCgroup(async (path) => {
        setDevices(facts, path, deviceRules({ isPrivileged: false, requested: [] }));
        assert.equal((await runInCgroup(path, `mknod ${node} c 1 11 && : >/dev/null && : </dev/urandom`)).code, 0);
        const { stdout, stderr } = await runInCgroup(path, openForReading);
        assert.equal(stdout, '');
        assert.match(stderr, /not permitted/);
      });
    });

    test('a requested device can be opened with the requested access, by the latest rules', async () => {
      await withCgroup(async (path) => {
        setDevices(facts, path, deviceRules({ isPrivileged: false, requested: [] }));
        setDevices(facts, path, deviceRules({ isPrivileged: false, requested: [{ ...kmsg, access: 'r' }] }));
        assert.equal((await runInCgroup(path, openForReading)).stdout, 'opened\n');
        assert.match((await runInCgroup(path, `: >${node}`)).stderr, /not permitted/);
      });
    });

    test('a privileged container can open every device', async () => {
      await withCgroup(async (path) => {
        setDevices(facts, path, deviceRules({ isPrivileged: true, requested: [] }));
        assert.equal((await runInCgroup(path, openForReading)).stdout, 'opened\n');
      });
    });

    test('a BPF program that the kernel rejects is an error with the reason', { skip: !isV2 && 'cgroup v2 only' }, async () => {
      await withCgroup(async (path) => {
        const policy = { kind: 'listed', v1Allows: [], v2Program: Buffer.alloc(16) } as const;
        assert.throws(() => setDevices(facts, path, policy), /set the device rules of cgroup .*: load a device program of 2 instructions.*EINVAL/);
      });
    });
  });

  // Needs only a cgroup2 mount, which a hybrid host has too.
  test('device programs load while signals arrive', { skip: unifiedDirectory === null && 'no cgroup2 mount' }, async () => {
    const directory = `${unifiedDirectory}${parent.replace('/', '/signals-')}`;
    const ignore = (): void => {};
    process.on('SIGWINCH', ignore);
    const sender = spawn('python3', ['-c', `import os, signal, time\nwhile True:\n  os.kill(${process.pid}, signal.SIGWINCH)\n  time.sleep(0.005)`]);
    mkdirSync(directory);
    try {
      await once(process, 'SIGWINCH');
      // r0 = 1 many times, and exit: long enough that signals arrive while the kernel checks it.
      const allowAll = Buffer.concat([...Array(2000).fill(Buffer.from('b700000001000000', 'hex')), Buffer.from('9500000000000000', 'hex')]);
      for (const end = Date.now() + 1000; Date.now() < end; ) setDeviceProgram(directory, allowAll);
    } finally {
      sender.kill('SIGKILL');
      await once(sender, 'exit');
      process.off('SIGWINCH', ignore);
      rmdirSync(directory);
    }
  });

  describe('updateCgroup()', () => {
    const limitFile = isV2 ? 'memory.max' : 'memory.limit_in_bytes';
    const quota = (path: string): string => readValue(path, 'cpu', isV2 ? 'cpu.max' : 'cpu.cfs_quota_us').split(' ')[0] ?? '';

    test('raises and lowers the limits of a running container', async () => {
      await withCgroup(async (path) => {
        let resources: Resources = { memoryLimitBytes: 32 * MiB, cpuQuotaUs: 50_000 };
        apply(path, resources);
        startInCgroup(path, 'sleep 1000');
        for (const wanted of [
          { memoryLimitBytes: 64 * MiB, cpuQuotaUs: 60_000, cpuPeriodUs: 50_000 },
          { memoryLimitBytes: 16 * MiB, cpuQuotaUs: 5_000, cpuPeriodUs: 10_000 },
        ]) {
          const usage = readMemoryUsage(facts, path);
          const update = planCgroupUpdate(resources, wanted, facts, usage === null ? null : { memoryBytes: usage });
          await updateCgroup(facts, path, update.writes);
          resources = update.resources;
          assert.equal(readValue(path, 'memory', limitFile), String(wanted.memoryLimitBytes));
          assert.equal(quota(path), String(wanted.cpuQuotaUs));
        }
      });
    });

    test('restores earlier values when a later value is rejected', async () => {
      await withCgroup(async (path) => {
        const resources = { memoryLimitBytes: 32 * MiB, cpuQuotaUs: 50_000 };
        apply(path, resources);
        const bad: CgroupWrite = { controller: 'memory', file: limitFile, value: 'nonsense', note: '' };
        for (const memoryLimitBytes of [16 * MiB, 64 * MiB]) {
          const { writes } = planCgroupUpdate(resources, { memoryLimitBytes, cpuQuotaUs: 60_000 }, facts, null);
          const expected = isFailure('INVALID_ARGUMENT', `write nonsense to ${limitFile} of ${path}: invalid argument (EINVAL)`);
          await assert.rejects(updateCgroup(facts, path, [...writes, bad]), expected);
          assert.equal(readValue(path, 'memory', limitFile), String(32 * MiB));
          assert.equal(quota(path), '50000');
        }
      });
    });

    test('restores an empty cpuset', { skip: !isV2 && 'cgroup v2 only' }, async () => {
      await withCgroup(async (path) => {
        const { writes } = planCgroupUpdate({}, { cpusetCpus: '0' }, facts, null);
        const bad: CgroupWrite = { controller: 'memory', file: 'memory.nonsense', value: '1', note: '' };
        await assert.rejects(
          updateCgroup(facts, path, [...writes, bad]),
          isFailure('FAILED_PRECONDITION', `write 1 to memory.nonsense of ${path}: no such file or directory (ENOENT)`),
        );
        assert.equal(readValue(path, 'cpuset', 'cpuset.cpus'), '');
      });
    });

    test('ignores a missing file only if this is tolerated', async () => {
      await withCgroup(async (path) => {
        const missing: CgroupWrite = { controller: 'pids', file: 'pids.nonsense', value: '1', note: '' };
        await updateCgroup(facts, path, [{ ...missing, tolerate: 'missing' }]);
        writeCgroup(facts, path, [{ ...missing, tolerate: 'missing' }]);
        await assert.rejects(updateCgroup(facts, path, [missing]), /pids\.nonsense/);
        assert.throws(() => writeCgroup(facts, path, [missing]), /pids\.nonsense/);
      });
    });
  });

  /** Children that keep forking: one in a new session, one that ignores signals. */
  const forking =
    'for i in 1 2 3 4; do (trap "" TERM HUP INT; while :; do sleep 0.05; done) & done; setsid sh -c "while :; do sleep 0.05; done" & wait';
  /** v1: with and without an additional unified hierarchy, because only that has cgroup.kill. */
  const ways: readonly CgroupFacts[] = facts.version === 2 || facts.unifiedRoot === null ? [facts] : [facts, { ...facts, unifiedRoot: null }];

  for (const way of ways) {
    const name = way === facts ? 'killCgroup()' : 'killCgroup() by the freezer';

    test(`${name} kills forking children, in nested cgroups too`, async () => {
      await withCgroup(async (path) => {
        const nested = `${path}/nested/deeper`;
        startInCgroup(path, forking, way);
        await bed.until('the first processes have started', async () => (await processes(way, path)).length >= 6);
        createCgroup(way, nested);
        startInCgroup(nested, forking, way);
        await bed.until('all have started', async () => (await processes(way, nested)).length >= 6 && (await processes(way, path)).length >= 12);
        assert.deepEqual(await killCgroup(way, path, killTimeoutMs), []);
        assert.deepEqual(await processes(way, path), []);
        await removeCgroup(way, path);
        assert.deepEqual(existingDirectories(path), []);
      }, way);
    });

    test(`${name} kills a frozen container`, async () => {
      await withCgroup(async (path) => {
        startInCgroup(path, forking, way);
        await bed.until('all have started', async () => (await processes(way, path)).length >= 6);
        await freeze(way, path, killTimeoutMs);
        assert.deepEqual(await killCgroup(way, path, killTimeoutMs), []);
      }, way);
    });

    test(`${name} of an empty or missing cgroup does nothing`, async () => {
      await withCgroup(async (path) => assert.deepEqual(await killCgroup(way, path, killTimeoutMs), []), way);
      assert.deepEqual(await killCgroup(way, `${parent}/none`, killTimeoutMs), []);
    });
  }

  test('freeze() stops a container and thaw() resumes it', async () => {
    await withCgroup(async (path) => {
      let [ticks, isFrozen, lateTicks] = [0, false, 0];
      const child = startInCgroup(path, 'while :; do echo tick; sleep 0.02; done');
      child.stdout?.on('data', () => {
        ticks++;
        if (isFrozen) lateTicks++;
      });
      await bed.until('it ticks', async () => ticks > 2);
      await freeze(facts, path, killTimeoutMs);
      // First read what was already in the pipe.
      await sleep(100);
      isFrozen = true;
      await sleep(200);
      assert.equal(lateTicks, 0);
      isFrozen = false;
      const before = ticks;
      thaw(facts, path);
      await bed.until('it ticks again', async () => ticks > before);
    });
  });

  test('freeze() of a missing cgroup fails, thaw() succeeds', async () => {
    await assert.rejects(
      freeze(facts, `${parent}/none`, 1000),
      isFailure('FAILED_PRECONDITION', `freeze cgroup ${parent}/none: it does not exist, or the node has no freezer`),
    );
    thaw(facts, `${parent}/none`);
  });

  test('removeCgroup() removes cgroups created by the container in any hierarchy, and is idempotent', async () => {
    await withCgroup(async (path) => {
      for (const directory of cgroupDirectories(facts, path)) mkdirSync(`${directory}/one/two/three`, { recursive: true });
      await removeCgroup(facts, path);
      assert.deepEqual(existingDirectories(path), []);
      await removeCgroup(facts, path);
    });
  });

  test('removeCgroup() of a cgroup in use fails after its timeout and names the process', async () => {
    await withCgroup(async (path) => {
      const pid = await startSleeper(path);
      await assert.rejects(removeCgroup(facts, path, 50), new RegExp(`remove cgroup ${path}: .* is still busy \\(EBUSY\\), processes ${pid}$`));
    });
  });

  test('removeIfEmpty() removes a parent only when it has no cgroups', async () => {
    await withCgroup(async (path) => {
      const pod = path.slice(0, path.lastIndexOf('/'));
      removeIfEmpty(facts, pod);
      assert.deepEqual(existingDirectories(pod), cgroupDirectories(facts, pod));
      await removeCgroup(facts, path);
      removeIfEmpty(facts, pod);
      assert.deepEqual(existingDirectories(pod), []);
    });
  });

  test('the root cgroup and non-canonical paths are rejected', async () => {
    for (const path of ['/', '', '/a/..', '/a//b', 'a']) {
      assert.throws(() => createCgroup(facts, path), /invalid cgroup path/);
      await assert.rejects(removeCgroup(facts, path), /invalid cgroup path/);
      await assert.rejects(killCgroup(facts, path, 1), /invalid cgroup path/);
    }
  });
});

function isFailure(code: string, message: string): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof BerthError);
    assert.deepEqual([error.code, error.message], [code, message]);
    return true;
  };
}
