/**
 * The fuse-overlayfs snapshotter: lifetime of the process that serves a root file system, and errors when it is gone. engine-fuse runs containers on it.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createFuseRootfs } from '../../src/engine/rootfs/fuse-rootfs.ts';
import { containerSpec, sandboxSpec, startEngine, type TestEngine } from './support/engine.ts';

process.env.BERTH_SNAPSHOTTER = 'fuse-overlayfs';
let host: TestEngine;
before(async () => {
  host = await startEngine();
});
after(() => host.end());

const never = new AbortController().signal;

/** Returns the pids of the processes that serve root file systems of this engine. */
function servers(): number[] {
  return readdirSync('/proc').flatMap((name) => {
    try {
      return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(`upperdir=${host.directory}/`) ? [Number(name)] : [];
    } catch {
      return [];
    }
  });
}

async function until(isDone: () => boolean): Promise<void> {
  for (let waits = 0; !isDone(); waits += 1) {
    assert.ok(waits < 500, 'timeout after 10 s');
    await sleep(20);
  }
}

async function create(): Promise<string> {
  const pod = await host.engine.runSandbox(sandboxSpec());
  return host.engine.createContainer(pod, containerSpec(['sleep', '1000']), host.image);
}

const fuseMounts = () => readFileSync('/proc/self/mountinfo', 'utf8').match(/fuse-overlayfs/g)?.length ?? 0;

test('a process serves the root while the container runs, also without the daemon, and nothing is mounted on the host', async () => {
  const id = await create();
  assert.equal(servers().length, 1);
  assert.equal(fuseMounts(), 0);
  await host.engine.startContainer(id);
  // Simulates the exit of the daemon, which closes its fds of the root.
  host.deps.rootfs.release(id);
  assert.equal(servers().length, 1);
  assert.equal((await host.engine.execSync(id, ['cat', '/etc/group'], 10_000, never)).exitCode, 0);
  await host.engine.stopContainer(id, 0);
  await until(() => servers().length === 0);
  await host.engine.removeContainer(id);
  assert.deepEqual(host.deps.rootfs.ids(), []);
});

test('the process of an unused root exits when its fd is closed, and another one serves it after a restart', async () => {
  const id = await create();
  const [first] = servers();
  // Simulates the exit of the daemon.
  host.deps.rootfs.release(id);
  await until(() => servers().length === 0);
  await host.engine.startContainer(id);
  assert.ok(servers().length === 1 && servers()[0] !== first);
  await host.engine.removeContainer(id);
  await until(() => servers().length === 0);
});

test('a container whose file system process was killed has a clear error, and can be stopped and removed', async () => {
  const id = await create();
  await host.engine.startContainer(id);
  const [server] = servers();
  const pid = host.deps.store.containers.get(id)?.status.process?.pid;
  assert.ok(server !== undefined && pid !== undefined);
  // Wait until the program is loaded: while it is reading its file, it would exit with the file system.
  await until(() => readFileSync(`/proc/${pid}/wchan`, 'utf8').includes('nanosleep'));
  process.kill(server, 'SIGKILL');
  await until(() => servers().length === 0);
  // ECONNABORTED while the connection is being closed.
  const message = /\((?:ECONNABORTED|ENOTCONN)\); the process that serves the file system has exited/;
  await assert.rejects(host.engine.execSync(id, ['cat', '/etc/group'], 10_000, never), { message });
  await host.engine.stopContainer(id, 0);
  await host.engine.removeContainer(id);
  assert.deepEqual(host.deps.rootfs.ids(), []);
});

test('a missing program and a disk limit are rejected with a fix', async () => {
  const path = process.env.PATH;
  process.env.PATH = '/nonexistent';
  try {
    const message = /fuse-overlayfs is not installed \(Debian: apt-get install fuse-overlayfs\)/;
    await assert.rejects(createFuseRootfs(host.deps.settings.rootDir, true), { code: 'FAILED_PRECONDITION', message });
  } finally {
    process.env.PATH = path;
  }
  const pod = await host.engine.runSandbox(sandboxSpec({ annotations: { 'io.berth.disk-limit': '1Gi' } }));
  const refused = host.engine.createContainer(pod, containerSpec(['sleep', '1']), host.image);
  await assert.rejects(refused, { code: 'FAILED_PRECONDITION', message: /not supported by the snapshotter fuse-overlayfs/ });
});
