import assert from 'node:assert/strict';
import { test } from 'node:test';
import { containerView, fakeDeps, sandboxView } from '../../../../test/support/cri-fakes.ts';
import { createClock } from '../../../lib/clock.ts';
import { podSandboxStatus } from './pod-sandbox-status.ts';

const world = {
  sandboxes: [sandboxView('s1'), sandboxView('s2')],
  containers: [
    containerView('c1', {}, { startedAtNs: '5' }),
    containerView('c2', {}, { startedAtNs: '5', finishedAtNs: '6', exitCode: 7 }),
    containerView('c3', { sandboxId: 's2' }),
  ],
};

test("podSandboxStatus() returns the statuses of the pod's own containers", async () => {
  const { status, containers_statuses: statuses } = await podSandboxStatus(fakeDeps(world), { pod_sandbox_id: 's1' });
  assert.equal(status?.id, 's1');
  assert.deepEqual(
    statuses?.map(({ id, state, exit_code }) => [id, state, exit_code]),
    [
      ['c1', 'CONTAINER_RUNNING', undefined],
      ['c2', 'CONTAINER_EXITED', 7],
    ],
  );
});

test('podSandboxStatus() returns strictly increasing timestamps, even if the clock stops or goes back', async () => {
  const future = BigInt(Date.now() + 3_600_000) * 1_000_000n;
  const deps = { ...fakeDeps(world), nowNs: createClock(future).nowNs };
  const times = [];
  for (let i = 0; i < 3; i++) times.push((await podSandboxStatus(deps, { pod_sandbox_id: 's1' })).timestamp);
  assert.deepEqual(
    times,
    [1n, 2n, 3n].map((step) => String(future + step)),
  );
});
