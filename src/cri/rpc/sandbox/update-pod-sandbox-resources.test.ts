import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fakeDeps } from '../../../../test/support/cri-fakes.ts';
import { updatePodSandboxResources } from './update-pod-sandbox-resources.ts';

test('updatePodSandboxResources() passes on only the fields that were sent', async () => {
  const deps = fakeDeps();
  await updatePodSandboxResources(deps, { pod_sandbox_id: 's1', resources: { cpu_shares: '51', memory_limit_in_bytes: '64' } });
  await updatePodSandboxResources(deps, { pod_sandbox_id: 's1', overhead: { cpu_quota: '-1' } });
  assert.deepEqual(deps.calls, [
    { name: 'updateSandboxResources', args: ['s1', { resources: { cpuShares: 51, memoryLimitBytes: 64 } }] },
    { name: 'updateSandboxResources', args: ['s1', { overhead: { cpuQuotaUs: -1 } }] },
  ]);
});

test('updatePodSandboxResources() refuses invalid values', async () => {
  const request = { pod_sandbox_id: 's1', resources: { cpu_period: '5' } };
  await assert.rejects(updatePodSandboxResources(fakeDeps(), request), { code: 'INVALID_ARGUMENT', message: /^cpu_period: 5/ });
});
