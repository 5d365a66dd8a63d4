/**
 * The daemon killed at every step of a pod's life that changes the machine: the next one finds only states that are true, the call that was cut off
 * succeeds when it is made again, and removal leaves nothing.
 *
 * BERTH_FAULT_EVERY=n takes every n-th point only; BERTH_FAULT_FROM=k begins at the k-th.
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
import { type Doomed, prepareDoomed } from './support/doomed-run.ts';
import { type Kind, type Node, openNode, steps } from './support/life.ts';
import { goOn, tracesAtEnd, tracesIn } from './support/traces.ts';

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
  test(`a daemon killed at any step of the life of a ${kind} pod leaves nothing that the next one cannot finish`, async (t) => {
    // Started ahead of its use: loading takes longer than dying.
    let next = prepareDoomed(compileCache);
    let points = 0;
    try {
      for (let killAt = from; ; killAt += every) {
        const daemon = next;
        next = prepareDoomed(compileCache);
        const isOver = await killedAt(daemon, kind, killAt);
        if (isOver) break;
        points += 1;
      }
    } finally {
      next.kill();
    }
    t.diagnostic(`${points} points`);
    assert.ok(points > 100 / every, 'the points are found');
  });
}

/** @returns whether the life was over before the point came. */
async function killedAt(daemon: Doomed, kind: Kind, killAt: number): Promise<boolean> {
  const directory = mkdtempSync('/var/tmp/berth-fault-');
  const before = tracesIn(directory, cgroup);
  const said = await daemon.run(directory, `/${cgroup}`, kind, killAt);
  const step = [...said.matchAll(/^step (\w+)$/gm)].at(-1)?.[1] ?? '';
  const [, point = 'the end'] = /^at (.*)$/m.exec(said) ?? [];
  const node = await openNode(directory, `/${cgroup}`);
  try {
    assert.ok(/^(at|done) /m.test(said), said);
    await recoverLoudly(node);
    goOn();
    await assertLegal(node);
    if (point !== 'the end') for (const each of steps.slice(steps.findIndex(({ name }) => name === step))) await each.take(node, kind);
    assert.deepEqual(await tracesAtEnd(directory, cgroup), before);
  } catch (error) {
    throw new Error(`killed at point ${killAt}, in ${step}, at ${point}`, { cause: error });
  } finally {
    await node.end();
  }
  return point === 'the end';
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
