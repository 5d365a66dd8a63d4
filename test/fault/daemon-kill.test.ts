/**
 * Kills the daemon at every step of a pod's lifecycle that changes the machine. The next daemon must report correct states, the interrupted call must
 * succeed when it is repeated, and removal must leave nothing behind.
 *
 * BERTH_FAULT_EVERY=n tests only every n-th point; BERTH_FAULT_FROM=k starts at the k-th.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { after, test } from 'node:test';
import { hasNamespaces } from '../../src/engine/lifecycle/sandbox.ts';
import { recover } from '../../src/engine/recover.ts';
import { containerState, sandboxState } from '../../src/engine/state/records.ts';
import { processes } from '../../src/sys/cgroup/cgroup-processes.ts';
import { isAlive } from '../../src/sys/process/processes.ts';
import { removeCgroup } from '../support/cgroups.ts';
import { enterIsolation } from '../support/isolation.ts';
import { findLeftovers, findLeftoversAfterExit, signalProcesses } from './support/leftovers.ts';
import { type LifecycleProcess, spawnLifecycleProcess } from './support/lifecycle-process.ts';
import { type Kind, type Node, openNode, steps } from './support/pod-lifecycle.ts';

enterIsolation();

const every = Number(process.env.BERTH_FAULT_EVERY ?? 1);
const from = Number(process.env.BERTH_FAULT_FROM ?? 1);
const cgroup = `berth-fault-${process.pid}-${Date.now().toString(36)}`;
const compileCache = mkdtempSync('/var/tmp/berth-fault-cache-');

after(async () => {
  await removeCgroup(cgroup);
  rmSync(compileCache, { recursive: true });
});

for (const kind of ['shared', 'plain'] as const) {
  test(`the next daemon recovers when one is killed at any step of the lifecycle of a ${kind} pod`, async (t) => {
    // Start the next process early: loading takes longer than the test of one point.
    let next = spawnLifecycleProcess(compileCache);
    let points = 0;
    try {
      for (let killAt = from; ; killAt += every) {
        const daemon = next;
        next = spawnLifecycleProcess(compileCache);
        const isComplete = await killAndRecover(daemon, kind, killAt);
        if (isComplete) break;
        points += 1;
      }
    } finally {
      next.kill();
    }
    t.diagnostic(`${points} kill points`);
    assert.ok(points > 100 / every, 'kill points were found');
  });
}

/** Kills the daemon at the point and checks the next one. @returns whether the lifecycle was complete before the point was reached. */
async function killAndRecover(daemon: LifecycleProcess, kind: Kind, killAt: number): Promise<boolean> {
  const directory = mkdtempSync('/var/tmp/berth-fault-');
  const before = findLeftovers(directory, cgroup);
  const output = await daemon.run(directory, `/${cgroup}`, kind, killAt);
  const step = [...output.matchAll(/^step (\w+)$/gm)].at(-1)?.[1] ?? '';
  const [, point = 'the end'] = /^at (.*)$/m.exec(output) ?? [];
  const node = await openNode(directory, `/${cgroup}`);
  try {
    assert.ok(/^(at|done) /m.test(output), output);
    await recoverWithoutErrors(node);
    signalProcesses('SIGCONT');
    await assertStates(node);
    if (point !== 'the end') for (const each of steps.slice(steps.findIndex(({ name }) => name === step))) await each.run(node, kind);
    assert.deepEqual(await findLeftoversAfterExit(directory, cgroup), before);
  } catch (error) {
    throw new Error(`killed at point ${killAt} (${point}) in ${step}`, { cause: error });
  } finally {
    await node.end();
  }
  return point === 'the end';
}

async function recoverWithoutErrors({ deps }: Node): Promise<void> {
  const errors: unknown[] = [];
  await recover({ ...deps, log: { ...deps.log, error: (fields, message) => errors.push([message, fields]) } });
  assert.deepEqual(errors, []);
}

/** Asserts that the recorded states match the kernel's. */
async function assertStates({ deps }: Node): Promise<void> {
  for (const { record, status } of deps.store.containers.all()) {
    const state = containerState(status);
    const pids = await processes(deps.cgroups, record.cgroupPath);
    assert.ok(['created', 'running', 'exited'].includes(state), state);
    assert.equal(pids.length > 0, state === 'running', `${state} with processes ${pids}`);
    for (const each of [status.process, status.monitor]) assert.equal(each !== undefined && isAlive(each.pid, each.startTime), state === 'running');
  }
  for (const { record, status } of deps.store.sandboxes.all()) {
    const state = sandboxState(status);
    assert.ok(state === 'not-ready' || (state === 'ready' && hasNamespaces(deps, record)), state);
  }
}
