/**
 * PodSandboxStatus: one sandbox, its address and its namespaces.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { PodSandboxStatusRequest, PodSandboxStatusResponse } from './messages.ts';
import { podSandboxStatus as toStatus, verboseInfo } from './to-response.ts';

/** @throws {BerthError} NOT_FOUND for an unknown id: the kubelet takes that for "gone meanwhile". */
export async function podSandboxStatus({ engine }: Pick<CriDeps, 'engine'>, request: PodSandboxStatusRequest): Promise<PodSandboxStatusResponse> {
  const view = engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  const info = request.verbose ? verboseInfo(engine.explain(view.record.id)) : {};
  return { status: toStatus(view), info };
}
