/**
 * UpdatePodSandboxResources: told after the kubelet has changed the pod's cgroup, which is its own. Nothing is left to do here.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse } from './messages.ts';

/** @throws {BerthError} NOT_FOUND for an unknown sandbox. */
export async function updatePodSandboxResources(
  { engine }: Pick<CriDeps, 'engine'>,
  request: UpdatePodSandboxResourcesRequest,
): Promise<UpdatePodSandboxResourcesResponse> {
  engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  return {};
}
