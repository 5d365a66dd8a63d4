/**
 * UpdateContainerResources: changes the limits of a running container. Zero fields are left unchanged.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { resourcesFrom } from '../../from-request/resources-from-request.ts';
import type { UpdateContainerResourcesRequest, UpdateContainerResourcesResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id or for invalid values, else as the engine. */
export async function updateContainerResources(
  { engine }: Pick<CriDeps, 'engine'>,
  { container_id, linux }: UpdateContainerResourcesRequest,
): Promise<UpdateContainerResourcesResponse> {
  await engine.updateResources(requiredName('container_id', container_id), resourcesFrom(linux));
  return {};
}
