/**
 * ReopenContainerLog: reopens a container's log file after log rotation has renamed it.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { ReopenContainerLogRequest, ReopenContainerLogResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function reopenContainerLog(
  { engine }: Pick<CriDeps, 'engine'>,
  request: ReopenContainerLogRequest,
): Promise<ReopenContainerLogResponse> {
  await engine.reopenLog(requiredName('container_id', request.container_id));
  return {};
}
