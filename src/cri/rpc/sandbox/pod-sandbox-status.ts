/**
 * PodSandboxStatus: the status of one sandbox with its addresses and namespaces and, for a kubelet that uses events, its containers.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { containerStatus, podSandboxStatus as toStatus, verboseInfo } from '../../to-response/to-response.ts';
import type { PodSandboxStatusRequest, PodSandboxStatusResponse } from '../../wire/messages.ts';

/**
 * The kubelet orders this response and the events by timestamp and uses the newest (KEP-3386). So everything is read in one turn of the event loop, and
 * the timestamp is from the same strictly increasing clock as those of events.
 *
 * @throws {BerthError} NOT_FOUND for an unknown id, which the kubelet treats as removed.
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
