/**
 * UpdatePodSandboxResources: records the resources of a whole pod, after the kubelet has changed the pod's cgroup (KEP-1287). The kubelet owns that
 * cgroup, so nothing is written to it here.
 */

import type { CriDeps } from '../../deps.ts';
import { present, requiredName } from '../../from-request/checks.ts';
import { resourcesFrom } from '../../from-request/resources-from-request.ts';
import type { LinuxContainerResources, UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse } from '../../wire/messages.ts';

/** Leaves unset fields unchanged. @throws {BerthError} NOT_FOUND for an unknown sandbox, INVALID_ARGUMENT for invalid values. */
export async function updatePodSandboxResources(
  { engine }: Pick<CriDeps, 'engine'>,
  { pod_sandbox_id, overhead, resources }: UpdatePodSandboxResourcesRequest,
): Promise<UpdatePodSandboxResourcesResponse> {
  const sent = (message: LinuxContainerResources | undefined) => message && resourcesFrom(message);
  const change = present({ overhead: sent(overhead), resources: sent(resources) });
  await engine.updateSandboxResources(requiredName('pod_sandbox_id', pod_sandbox_id), change);
  return {};
}
