/**
 * ContainerStatus: one container, its state and what is in force for it.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { ContainerStatusRequest, ContainerStatusResponse } from './messages.ts';
import { containerStatus as toStatus, verboseInfo } from './to-response.ts';

/** @throws {BerthError} NOT_FOUND for an unknown id: the kubelet takes that for "gone meanwhile". */
export async function containerStatus({ engine }: Pick<CriDeps, 'engine'>, request: ContainerStatusRequest): Promise<ContainerStatusResponse> {
  const view = engine.container(requiredName('container_id', request.container_id));
  const info = request.verbose ? verboseInfo(engine.explain(view.record.id)) : {};
  return { status: toStatus(view), info };
}
