/**
 * PodSandboxStatus: one sandbox, its address and its namespaces; and, for a kubelet that follows events, its containers as of a point in time.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { containerStatus, podSandboxStatus as toStatus, verboseInfo } from '../../to-response/to-response.ts';
import type { PodSandboxStatusRequest, PodSandboxStatusResponse } from '../../wire/messages.ts';

/**
 * The kubelet orders this answer among the events by its time, and takes the newer (KEP-3386): all is read in one go, at a time of the clock that events
 * have theirs from, which never gives the same twice.
 *
 * @throws {BerthError} NOT_FOUND for an unknown id: the kubelet takes that for "gone meanwhile".
 */
export async function podSandboxStatus(
  { engine, nowNs }: Pick<CriDeps, 'engine' | 'nowNs'>,
  request: PodSandboxStatusRequest,
): Promise<PodSandboxStatusResponse> {
  const view = engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  const { id } = view.record;
  const containers = engine.containers().filter(({ record }) => record.sandboxId === id);
  return {
    status: toStatus(view),
    info: request.verbose ? verboseInfo(engine.explain(id)) : {},
    containers_statuses: containers.map(containerStatus),
    timestamp: nowNs(),
  };
}
