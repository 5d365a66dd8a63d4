/**
 * ContainerStatus: the state and effective settings of one container.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { containerStatus as toStatus, verboseInfo } from '../../to-response/to-response.ts';
import type { ContainerStatusRequest, ContainerStatusResponse } from '../../wire/messages.ts';

/** @throws {BerthError} NOT_FOUND for an unknown id, which the kubelet treats as removed. */
export async function containerStatus({ engine }: Pick<CriDeps, 'engine'>, request: ContainerStatusRequest): Promise<ContainerStatusResponse> {
  const view = engine.container(requiredName('container_id', request.container_id));
  const info = request.verbose ? verboseInfo(engine.explain(view.record.id)) : {};
  return { status: toStatus(view), info };
}
