/**
 * Checkpoints of containers: archives that checkpointctl can read, created by CRIU if it works on this kernel; and failures, with fake programs in
 * place of CRIU. BERTH_TEST_CRIU selects another CRIU than the installed one.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { abandonCheckpoint, checkpointContainer } from '../../src/engine/checkpoint/checkpoint.ts';
import { findCriu } from '../../src/engine/checkpoint/criu.ts';
import type { EngineDeps } from '../../src/engine/deps.ts';
import type { ContainerSpec, SandboxSpec } from '../../src/engine/state/spec.ts';
import type { ErrorCode } from '../../src/lib/errors.ts';
import { freeze } from '../../src/sys/cgroup/cgroup-processes.ts';
import { processStartTime } from '../../src/sys/process/processes.ts';
import { prepareCheckpointTool } from '../checkpoint-tool/prepare.ts';
import { containerSpec, sandboxSpec, security, startEngine, type TestEngine } from './support/engine.ts';

// CRIU probes TCP features on the loopback device.
spawnSync('ip', ['link', 'set', 'lo', 'up']);
const never = new AbortController().signal;
const searchPath = process.env.PATH ?? '';
const real = await findCriu({ program: process.env.BERTH_TEST_CRIU ?? 'criu', searchPath });
const hasCriu = 'lack' in real ? { skip: real.lack } : {};
const tool = checkpointTool();

/** Null if it can be neither found nor built. */
function checkpointTool(): string | null {
  try {
    return prepareCheckpointTool();
  } catch {
    return null;
  }
}

let host: TestEngine;
before(async () => {
  host = await startEngine();
});
after(() => host.end());

/** Counts in a file and on stdout. */
const counting = 'i=0; while true; do i=$((i+1)); echo $i > /tmp/n; echo $i; sleep 0.1; done';

async function start(changes: Partial<ContainerSpec> = {}, sandbox: Partial<SandboxSpec> = {}, script = counting): Promise<string> {
  const sandboxId = await host.engine.runSandbox(sandboxSpec(sandbox));
  const id = await host.engine.createContainer(sandboxId, containerSpec(['sh', '-c', script], changes), host.image);
  await host.engine.startContainer(id);
  return id;
}

async function run(id: string, script: string): Promise<string> {
  const { stdout, stderr, exitCode } = await host.engine.execSync(id, ['sh', '-c', script], 20_000, never);
  assert.equal(exitCode, 0, `${script}: ${stdout}${stderr}`);
  return stdout.toString().trim();
}

let archives = 0;
const newLocation = (): string => join(host.directory, `checkpoint-${archives++}.tar`);

const workDirOf = (id: string): string => join(host.directory, 'root/containers', id, 'checkpoint');

async function assertRuns(id: string): Promise<void> {
  assert.equal(host.engine.container(id).status.finishedAtNs, undefined, 'the container has not exited');
  const before = Number(await run(id, 'cat /tmp/n || echo 0'));
  for (let waits = 0; Number((await run(id, 'cat /tmp/n')) || before) <= before; waits += 1) {
    assert.ok(waits < 100, 'the container continues to count');
    await sleep(50);
  }
}

/** Returns the engine with another program in place of CRIU. */
function withCriu(script: string): EngineDeps {
  const path = join(host.directory, `criu-${archives++}`);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return { ...host.deps, settings: { ...host.deps.settings, criu: { program: path, searchPath } } };
}

/** Asserts that the checkpoint fails with this error and leaves nothing behind, and that the container keeps running. */
async function assertFails(
  deps: EngineDeps,
  id: string,
  code: ErrorCode,
  message: RegExp,
  request: Partial<Parameters<typeof checkpointContainer>[2]> = {},
) {
  const location = request.location ?? newLocation();
  const wasThere = existsSync(location);
  await assert.rejects(checkpointContainer(deps, id, { location, timeoutMs: 30_000, signal: never, ...request }), { code, message });
  assert.equal(existsSync(location), wasThere, 'no archive');
  assert.equal(existsSync(workDirOf(id)), false, 'the work directory is removed');
}

const checked = 'if [ "$1" = check ]; then echo Looks good.; exit 0; fi';

const volume = (containerPath: string, hostPath: string): ContainerSpec['mounts'][number] => ({
  ...{ containerPath, hostPath, isReadonly: false, isRecursiveReadonly: false, propagation: 'private' },
  ...{ wantsSelinuxRelabel: false, options: [] },
});

/** Returns the entries of the archive, and of the archive of changed files in it. */
function unpack(location: string): {
  readonly names: readonly string[];
  readonly changes: readonly string[];
  readonly read: (name: string) => string;
} {
  const directory = `${location}.unpacked`;
  mkdirSync(directory);
  execFileSync('tar', ['-xf', location, '-C', directory]);
  const changes = execFileSync('tar', ['-tf', join(directory, 'rootfs-diff.tar')], { encoding: 'utf8' })
    .trim()
    .split('\n');
  return { names: readdirSync(directory).sort(), changes, read: (name) => readFileSync(join(directory, name), 'utf8') };
}

test('the checkpoint of a running container can be read by checkpointctl, and the container keeps running', hasCriu, async (context) => {
  mkdirSync(join(host.directory, 'data'));
  const masked = { maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/acpi', '/sys/firmware', '/masked'], readonlyPaths: ['/proc/sys', '/proc/bus'] };
  const id = await start(
    {
      logPath: join(host.directory, 'logs/0.log'),
      mounts: [volume('/data', join(host.directory, 'data')), volume('/tmp/file', '/etc/hostname')],
      security: { ...security, ...masked, seccomp: { kind: 'runtime-default' } },
      // No short-lived children: checkpointctl does not handle zombies.
    },
    {},
    // The sleep of busybox 1.37 ends early when it was interrupted by a dump.
    'echo 1 > /tmp/n; exec tail -f /dev/null',
  );
  for (let waits = 0; waits < 100 && (await run(id, 'cat /tmp/n || true')) === ''; waits += 1) await sleep(50);
  await run(id, 'echo changed > /etc/changed; rm /etc/group; rm -r /masked/../bin/md5sum');
  const location = newLocation();
  await host.engine.checkpoint(id, { location, timeoutMs: 0, signal: never });
  assert.match(await run(id, 'cat /proc/1/status'), /^State:\s+S/m, 'the container keeps running');
  assert.equal(existsSync(workDirOf(id)), false);
  assert.equal(statSync(location).mode & 0o7777, 0o600);
  const { names, changes, read } = unpack(location);
  const wanted = ['bind.mounts', 'checkpoint', 'config.dump', 'deleted.files', 'dump.log', 'rootfs-diff.tar', 'spec.dump', 'stats-dump'];
  assert.deepEqual(names, wanted);
  assert.ok(changes.includes('etc/changed') && changes.includes('tmp/n') && !changes.includes('etc/passwd'), changes.join(' '));
  assert.deepEqual(JSON.parse(read('deleted.files')), ['/bin/md5sum', '/etc/group']);
  assert.equal(JSON.parse(read('config.dump')).id, id);
  assert.deepEqual(
    JSON.parse(read('bind.mounts')).map((each: { destination: string; file_type: string }) => [each.destination, each.file_type]),
    [
      ['/data', 'directory'],
      ['/tmp/file', 'file'],
    ],
  );
  if (tool === null) return context.diagnostic('not shown to checkpointctl: it cannot be built here');
  const shown = execFileSync(tool, ['show', location], { encoding: 'utf8' });
  assert.match(shown, new RegExp(`main\\s+test\\s+${id.slice(0, 12)}\\s+berth\\s`));
  const tree = execFileSync(tool, ['inspect', '--all', location], { encoding: 'utf8' });
  for (const part of ['IP: 192.0.2.1', 'Pod name: pod', 'Pages written', '[REG 0]  /dev/null', '[PIPE 1]', 'Destination: /data']) {
    assert.ok(tree.includes(part), `${part} in ${tree}`);
  }
});

test('a container with a terminal and an exec, in a shared pid namespace, can be checkpointed', hasCriu, async () => {
  const namespaces = { network: 'pod', ipc: 'pod', pid: 'pod' } as const;
  const id = await start({ hasTerminal: true, hasStdin: true, security: { ...security, namespaces } }, { namespaces });
  const exec = host.engine.execSync(id, ['sleep', '2'], 20_000, never);
  await sleep(200);
  const location = newLocation();
  await host.engine.checkpoint(id, { location, timeoutMs: 0, signal: never });
  assert.equal((await exec).exitCode, 0);
  await assertRuns(id);
  assert.ok(unpack(location).names.includes('checkpoint'));
});

test('without CRIU a checkpoint fails with what is missing and how to fix it', async () => {
  const id = await start();
  const settings = { ...host.deps.settings, criu: { program: 'criu-of-nowhere', searchPath } };
  await assertFails({ ...host.deps, settings }, id, 'FAILED_PRECONDITION', /criu-of-nowhere not found; install criu/);
  await assertRuns(id);
});

test('if CRIU does not work on this kernel, the error contains its reason', async () => {
  const id = await start();
  const deps = withCriu('echo "Error (criu/vdso.c:381): vdso: Unexpected bounds" >&2; exit 1');
  await assertFails(deps, id, 'FAILED_PRECONDITION', /does not support kernel .*: vdso: Unexpected bounds; install a newer criu/);
});

test('a failed dump reports the reason, and the container keeps running', async () => {
  const id = await start();
  const deps = withCriu(`${checked}; exit 1`);
  await assertFails(deps, id, 'INTERNAL', /^checkpoint container main: criu: exit code 1$/);
  await assertRuns(id);
});

test('an existing file at the location is not overwritten', async () => {
  const id = await start();
  const location = newLocation();
  writeFileSync(location, 'mine');
  await assertFails(withCriu(checked), id, 'ALREADY_EXISTS', /already exists$/, { location });
  assert.equal(readFileSync(location, 'utf8'), 'mine');
  await assertFails(withCriu(checked), id, 'FAILED_PRECONDITION', /create a file in .*ENOENT/, { location: '/nowhere/at/all.tar' });
});

test('a container that is not running cannot be checkpointed', async () => {
  const id = await start({}, {}, 'exit 0');
  await host.deps.watches.of(id)?.exited;
  await assertFails(withCriu(checked), id, 'FAILED_PRECONDITION', /^checkpoint container main: the container is exited$/);
});

const hanging = `${checked}; sleep 1000`;

test('a timeout or a cancelled call kills CRIU, and the container keeps running', async () => {
  const id = await start();
  await assertFails(withCriu(hanging), id, 'DEADLINE_EXCEEDED', /timeout after 1 s; the container keeps running$/, { timeoutMs: 1000 });
  await assertRuns(id);
  const caller = new AbortController();
  setTimeout(() => caller.abort(new Error('the caller has gone')), 500);
  await assertFails(withCriu(hanging), id, 'INTERNAL', /the caller has gone$/, { signal: caller.signal });
  await assertRuns(id);
});

test('a container keeps running whenever a checkpoint is cancelled', hasCriu, async () => {
  const id = await start();
  for (const delayMs of [150, 200, 250, 300, 350, 400, 500]) {
    const caller = new AbortController();
    const timer = setTimeout(() => caller.abort(new Error('the caller has gone')), delayMs);
    const location = newLocation();
    const isDone = await host.engine.checkpoint(id, { location, timeoutMs: 0, signal: caller.signal }).then(
      () => true,
      () => false,
    );
    clearTimeout(timer);
    assert.equal(existsSync(location), isDone);
    assert.equal(existsSync(workDirOf(id)), false);
    await assertRuns(id);
  }
  await host.engine.checkpoint(id, { location: newLocation(), timeoutMs: 0, signal: never });
});

test('a stop does not wait for a checkpoint', async () => {
  const id = await start({}, {}, `trap 'exit 7' TERM; ${counting}`);
  // Pid 1 of a pid namespace does not receive signals without a handler.
  await assertRuns(id);
  const failure = assertFails(withCriu(hanging), id, 'FAILED_PRECONDITION', /the container was stopped$/);
  while (!existsSync(join(workDirOf(id), 'criu.json'))) await sleep(20);
  await host.engine.stopContainer(id, 20_000);
  assert.equal(host.engine.container(id).status.exitCode, 7);
  await failure;
});

test('a checkpoint on a full disk fails and leaves nothing behind', hasCriu, async () => {
  const id = await start();
  const full = join(host.directory, 'full');
  mkdirSync(full);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'full', full]);
  await assertFails(host.deps, id, 'RESOURCE_EXHAUSTED', /no space left/i, { location: join(full, 'a.tar') });
  assert.deepEqual(readdirSync(full), []);
  assert.equal(Number(execFileSync('stat', ['-f', '-c', '%b', full])) - Number(execFileSync('stat', ['-f', '-c', '%f', full])) <= 1, true);
  execFileSync('umount', [full]);
  rmSync(full, { recursive: true });
  await assertRuns(id);
});

test('recovery cleans up an interrupted checkpoint: CRIU, frozen cgroup and files', async () => {
  const id = await start();
  const view = host.engine.container(id);
  mkdirSync(join(workDirOf(id), 'checkpoint'), { recursive: true });
  const criu = execFileSync('sh', ['-c', 'sleep 1000 >/dev/null 2>&1 & echo $!'], { encoding: 'utf8' }).trim();
  writeFileSync(join(workDirOf(id), 'criu.json'), JSON.stringify({ pid: Number(criu), startTime: processStartTime(Number(criu)) }));
  await freeze(host.deps.cgroups, view.record.cgroupPath, 10_000);
  await abandonCheckpoint(host.deps, view);
  await assertRuns(id);
  assert.equal(existsSync(workDirOf(id)), false);
  assert.ok(processStartTime(Number(criu)) === null || readFileSync(`/proc/${criu}/stat`, 'utf8').includes(') Z '));
});
