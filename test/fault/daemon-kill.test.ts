/**
 * The daemon killed at every step of a pod's life that changes the machine: the next one finds only states that are true, the call that was cut off
 * succeeds when it is made again, and removal leaves nothing.
 *
 * BERTH_FAULT_EVERY=n takes every n-th point only; BERTH_FAULT_FROM=k begins at the k-th.
 */
import assert from 'node:assert/strict';
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { containerState, sandboxState } from '../../src/engine/records.ts';
import { recover } from '../../src/engine/recover.ts';
import { hasNamespaces } from '../../src/engine/sandbox.ts';
import { processes } from '../../src/sys/cgroup-processes.ts';
import { isAlive } from '../../src/sys/processes.ts';
import { cgroupDirectories, removeCgroup } from '../support/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { type Life, type Node, openNode, steps } from './support/life.ts';

enterIsolation();

const every = Number(process.env.BERTH_FAULT_EVERY ?? 1);
const from = Number(process.env.BERTH_FAULT_FROM ?? 1);
const cgroup = `berth-fault-${process.pid}-${Date.now().toString(36)}`;
const compileCache = mkdtempSync('/var/tmp/berth-fault-cache-');
const killPoints = join(import.meta.dirname, 'support/kill-points.ts');
const doomed = join(import.meta.dirname, 'support/doomed.ts');

after(async () => {
  await removeCgroup(cgroup);
  rmSync(compileCache, { recursive: true });
});

for (const pid of ['pod', 'container'] as const) {
  test(`a daemon killed at any step of the life of a pod with pid mode ${pid} leaves nothing that the next one cannot finish`, async (t) => {
    let next = prepare();
    let points = 0;
    for (let killAt = from; ; killAt += every) {
      const daemon = next;
      next = prepare();
      const isOver = await killedAt(daemon, { name: `pod${killAt}`, pid }, killAt);
      if (isOver) break;
      points += 1;
    }
    next.kill();
    t.diagnostic(`${points} points`);
    assert.ok(points > 10, 'the points are found');
  });
}

/** Started ahead of its use: loading takes longer than dying. */
function prepare(): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, ['--import', killPoints, doomed], {
    env: { ...process.env, NODE_COMPILE_CACHE: compileCache, NODE_TEST_CONTEXT: '' },
  });
}

/** @returns whether the life was over before the point came. */
async function killedAt(daemon: ChildProcessWithoutNullStreams, life: Life, killAt: number): Promise<boolean> {
  const directory = mkdtempSync('/var/tmp/berth-fault-');
  const before = traces(directory);
  const said = await run(daemon, [directory, `/${cgroup}`, life.name, life.pid, killAt].join(' '));
  const step = [...said.matchAll(/^step (\w+)$/gm)].at(-1)?.[1] ?? '';
  const [, point = 'the end'] = /^at (.*)$/m.exec(said) ?? [];
  const node = await openNode(directory, `/${cgroup}`);
  try {
    assert.ok(/^(at|done) /m.test(said), said);
    await recoverLoudly(node);
    goOn();
    await assertLegal(node);
    if (point !== 'the end') for (const each of steps.slice(steps.findIndex(({ name }) => name === step))) await each.take(node, life);
    assert.deepEqual(await ended(directory), before);
  } catch (error) {
    throw new Error(`killed at point ${killAt}, in ${step}, at ${point}`, { cause: error });
  } finally {
    await node.end();
  }
  return point === 'the end';
}

function run(daemon: ChildProcessWithoutNullStreams, line: string): Promise<string> {
  let said = '';
  for (const stream of [daemon.stdout, daemon.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text));
  daemon.stdin.write(`${line}\n`);
  return new Promise((settle) => daemon.once('close', () => settle(said)));
}

async function recoverLoudly({ deps }: Node): Promise<void> {
  const errors: unknown[] = [];
  await recover({ ...deps, log: { ...deps.log, error: (fields, message) => errors.push([message, fields]) } });
  assert.deepEqual(errors, []);
}

/** What the records say is what the kernel has. */
async function assertLegal({ deps }: Node): Promise<void> {
  for (const { record, status } of deps.store.containers.all()) {
    const state = containerState(status);
    const living = await processes(deps.cgroups, record.cgroupPath);
    assert.ok(['created', 'running', 'exited'].includes(state), state);
    assert.equal(living.length > 0, state === 'running', `${state} with processes ${living}`);
    for (const each of [status.process, status.monitor]) assert.equal(each !== undefined && isAlive(each.pid, each.startTime), state === 'running');
  }
  for (const { record, status } of deps.store.sandboxes.all()) {
    const state = sandboxState(status);
    assert.ok(state === 'not-ready' || (state === 'ready' && hasNamespaces(deps, record)), state);
  }
}

/** What was stopped by the test runs on. */
function goOn(): void {
  for (const pid of strangers()) {
    try {
      process.kill(pid, 'SIGCONT');
    } catch {
      // It has ended meanwhile.
    }
  }
}

/** A monitor that was told to end does so a moment later. */
async function ended(directory: string): Promise<unknown> {
  for (let waits = 0; waits < 100 && strangers().length > 0; waits += 1) await new Promise((settle) => setTimeout(settle, 10));
  return traces(directory);
}

function traces(directory: string): unknown {
  return {
    processes: strangers().map(commandOf),
    mounts: readFileSync('/proc/self/mounts', 'utf8').split('\n').length,
    cgroups: cgroupDirectories(cgroup).flatMap((path) =>
      readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name),
    ),
    files: ['state/sandboxes', 'state/containers', 'netns', 'root/containers', 'root/cni/results', 'leases'].flatMap((path) =>
      namesIn(join(directory, path)),
    ),
  };
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** What runs here besides the tests; this pid namespace has nobody else. */
function strangers(): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => !/^$|node|^sh /.test(commandOf(pid)));
}

/** '' for a zombie. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
