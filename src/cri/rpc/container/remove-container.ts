/**
 * RemoveContainer: kills and removes a container but not its log. Succeeds for an unknown container.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { RemoveContainerRequest, RemoveContainerResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function removeContainer({ engine }: Pick<CriDeps, 'engine'>, request: RemoveContainerRequest): Promise<RemoveContainerResponse> {
  await engine.removeContainer(requiredName('container_id', request.container_id));
  return {};
}
