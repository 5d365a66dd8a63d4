/**
 * StartContainer: starts the container's process. Returns after execve(2), or with the operation that failed.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { StartContainerRequest, StartContainerResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function startContainer({ engine }: Pick<CriDeps, 'engine'>, request: StartContainerRequest): Promise<StartContainerResponse> {
  await engine.startContainer(requiredName('container_id', request.container_id));
  return {};
}
