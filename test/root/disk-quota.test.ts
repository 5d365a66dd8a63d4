/**
 * Project quotas on ext4 and xfs, and on a file system without them.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { projectOf, readProject, readQuotaState } from '../../src/sys/filesystem/quota.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

const place = mkdtempSync('/var/tmp/berth-quota-');
after(() => rmSync(place, { recursive: true, force: true }));
const MiB = 1 << 20;

const kinds = {
  ext4: { make: ['mkfs.ext4', '-q', '-O', 'project,quota', '-E', 'quotatype=prjquota'], module: 'quota_v2' },
  xfs: { make: ['mkfs.xfs', '-q'], module: 'xfs' },
} as const;

/** Mounts a new file system with project quotas. @returns why it cannot be mounted. */
function mountWithQuotas(kind: keyof typeof kinds): string | undefined {
  const [image, mount] = [join(place, `${kind}.img`), join(place, kind)];
  const { make, module } = kinds[kind];
  mkdirSync(mount);
  writeFileSync(image, '');
  truncateSync(image, 400 * MiB);
  for (const name of ['loop', module]) spawnSync('modprobe', [name]);
  const [program, ...options] = make;
  const made = spawnSync(program, [...options, image], { encoding: 'utf8' });
  if (made.status !== 0) return made.error?.message ?? made.stderr;
  const mounted = spawnSync('mount', ['-o', 'loop,prjquota', image, mount], { encoding: 'utf8' });
  return mounted.status === 0 ? undefined : `this kernel mounts no ${kind} with project quotas`;
}

async function runShell(host: TestEngine, id: string, script: string): Promise<{ code: number; output: string }> {
  const { exitCode, stdout, stderr } = await host.engine.execSync(id, ['sh', '-c', script], 60_000, new AbortController().signal);
  return { code: exitCode, output: `${stdout}${stderr}` };
}

async function start(host: TestEngine, annotations: Readonly<Record<string, string>> = {}): Promise<string> {
  const pod = await host.engine.runSandbox(sandboxSpec({ annotations }));
  const id = await host.engine.createContainer(pod, containerSpec(['sleep', '1000']), host.image);
  await host.engine.startContainer(id);
  return id;
}

async function statsOf(host: TestEngine, id: string) {
  for await (const portion of host.engine.stats.containers([host.engine.container(id)])) {
    for (const { writableLayer } of portion) if (writableLayer !== null) return writableLayer;
  }
  assert.fail('the usage was not measured');
}

const diskOf = (host: TestEngine, id: string) =>
  (host.engine.explain(id) as { info: { disk?: { usedBytes: number; inodes: number; limitBytes: number | null } } }).info.disk;
const directoryOf = (host: TestEngine, id: string) => join(host.deps.settings.rootDir, 'containers', id);
const fill = (mebibytes: number) => `dd if=/dev/zero of=/file bs=1048576 count=${mebibytes}`;

for (const kind of ['ext4', 'xfs'] as const) {
  const lacks = mountWithQuotas(kind);
  const mount = join(place, kind);
  describe(`on ${kind} with project quotas`, { skip: lacks ?? false }, () => {
    after(() => {
      if (lacks === undefined) execFileSync('umount', ['-l', mount]);
    });

    test('a container cannot write more than its limit, and other containers are not affected', async () => {
      const host = await startEngine(undefined, mkdtempSync(join(mount, 'engine-')));
      try {
        const limited = await start(host, { 'io.berth.disk-limit': '10Mi' });
        const free = await start(host);
        assert.equal((await runShell(host, limited, fill(5))).code, 0);
        const { code, output } = await runShell(host, limited, fill(20));
        assert.notEqual(code, 0);
        assert.match(output, kind === 'ext4' ? /quota exceeded/i : /No space left/);
        assert.equal((await runShell(host, free, fill(20))).code, 0);
        const disk = diskOf(host, limited);
        assert.ok(disk && disk.limitBytes === 10 * MiB && disk.usedBytes > 9 * MiB && disk.usedBytes <= 10 * MiB, JSON.stringify(disk));
        assert.equal(diskOf(host, free)?.limitBytes, null);
        assert.equal((await runShell(host, limited, 'rm /file 2>/dev/null || : > /file')).code, 0);
        assert.equal((await runShell(host, limited, fill(8))).code, 0);
      } finally {
        await host.end();
      }
    });

    test('the usage of a container is known immediately and equals the size of its directory', async () => {
      const host = await startEngine(undefined, mkdtempSync(join(mount, 'engine-')));
      try {
        const id = await start(host);
        const before = await statsOf(host, id);
        await runShell(host, id, `${fill(3)}; for i in $(seq 50); do touch /tmp/$i; done`);
        execFileSync('sync', ['-f', mount]);
        const after = await statsOf(host, id);
        assert.ok(after.bytes - before.bytes >= 3 * MiB && after.bytes - before.bytes < 4 * MiB, `${after.bytes - before.bytes}`);
        // The file, fifty others, and /tmp, which is copied up.
        assert.equal(after.inodes - before.inodes, 52);
        const walked = execFileSync('du', ['-s', '-B1', directoryOf(host, id)], { encoding: 'utf8' });
        assert.equal(after.bytes, Number(walked.split('\t')[0]));
      } finally {
        await host.end();
      }
    });

    test('a project id belongs to one container, survives the daemon, and is released by the removal', async () => {
      const directory = mkdtempSync(join(mount, 'engine-'));
      const host = await startEngine(undefined, directory);
      const fd = openSync(mount, 'r');
      assert.deepEqual(readQuotaState(fd), { isCounted: true, isEnforced: true });
      const ids = [await start(host, { 'io.berth.disk-limit': '5Mi' }), await start(host), await start(host)];
      const projects = ids.map((id) => projectOf(directoryOf(host, id)));
      assert.equal(new Set(projects).size, 3);
      const restarted = await startEngine(undefined, directory);
      assert.deepEqual(
        ids.map((id) => restarted.deps.rootfs.usage(id)),
        ids.map((id) => host.deps.rootfs.usage(id)),
      );
      assert.equal(restarted.deps.rootfs.usage(ids[0] ?? '')?.limitBytes, 5 * MiB);
      restarted.deps.rootfs.create('later', []);
      assert.ok(!projects.includes(projectOf(directoryOf(host, 'later'))));
      await restarted.deps.rootfs.remove('later');
      // A second daemon on the same file system.
      const other = await startEngine(undefined, mkdtempSync(join(mount, 'engine-')));
      const theirs = projectOf(directoryOf(other, await start(other)));
      assert.ok(!projects.includes(theirs));
      await other.end();
      restarted.deps.monitor.close();
      restarted.deps.oomKills.close();
      await host.end();
      for (const project of [...projects, theirs]) {
        // xfs frees removed files in the background.
        for (let waits = 0; waits < 500 && readProject(fd, project).inodes > 0; waits += 1) await sleep(20);
        assert.deepEqual(readProject(fd, project), { bytes: 0, inodes: 0, limitBytes: 0 });
      }
      const again = await startEngine(undefined, mkdtempSync(join(mount, 'engine-')));
      await start(again);
      await again.end();
    });
  });
}

test('without project quotas a limit is rejected with a fix, and nothing of the container remains', async () => {
  const host = await startEngine();
  try {
    const refused = start(host, { 'disk-limit.io.berth/main': '10Mi' });
    if (readQuotaState(openSync(host.deps.settings.rootDir, 'r')).isEnforced) return void (await refused);
    await assert.rejects(refused, { code: 'FAILED_PRECONDITION', message: /has no project quotas .*prjquota/ });
    assert.deepEqual(host.deps.rootfs.ids(), []);
    const id = await start(host);
    assert.ok((await statsOf(host, id)).inodes > 0);
    assert.equal(diskOf(host, id), undefined);
  } finally {
    await host.end();
  }
});
