/**
 * UpdatePodSandboxResources: what a pod may take in all, told after the kubelet has changed the pod's cgroup (KEP-1287). That is the kubelet's own:
 * nothing is written to it here; the values are kept and shown.
 */

import type { CriDeps } from '../../deps.ts';
import { present, requiredName } from '../../from-request/checks.ts';
import { resourcesFrom } from '../../from-request/resources-from-request.ts';
import type { LinuxContainerResources, UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse } from '../../wire/messages.ts';

/** What is not sent stays as it was. @throws {BerthError} NOT_FOUND for an unknown sandbox, INVALID_ARGUMENT for values that no kernel takes. */
export async function updatePodSandboxResources(
  { engine }: Pick<CriDeps, 'engine'>,
  { pod_sandbox_id, overhead, resources }: UpdatePodSandboxResourcesRequest,
): Promise<UpdatePodSandboxResourcesResponse> {
  const sent = (message: LinuxContainerResources | undefined) => message && resourcesFrom(message);
  const change = present({ overhead: sent(overhead), resources: sent(resources) });
  await engine.updateSandboxResources(requiredName('pod_sandbox_id', pod_sandbox_id), change);
  return {};
}
