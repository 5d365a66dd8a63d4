/**
 * StopContainer: sends the stop signal, then SIGKILL after the timeout. Returns when the exit is recorded. Succeeds for a container that is not running.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { secondsToMs } from '../../from-request/seconds.ts';
import type { StopContainerRequest, StopContainerResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function stopContainer({ engine }: Pick<CriDeps, 'engine'>, request: StopContainerRequest): Promise<StopContainerResponse> {
  await engine.stopContainer(requiredName('container_id', request.container_id), secondsToMs(request.timeout));
  return {};
}
