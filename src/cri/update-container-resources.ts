/**
 * UpdateContainerResources: changes a container's limits while it runs. Fields that are zero stay as they are.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { UpdateContainerResourcesRequest, UpdateContainerResourcesResponse } from './messages.ts';
import { resourcesFrom } from './resources-from-request.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id or with values that no kernel takes, else as the engine. */
export async function updateContainerResources(
  { engine }: Pick<CriDeps, 'engine'>,
  { container_id, linux }: UpdateContainerResourcesRequest,
): Promise<UpdateContainerResourcesResponse> {
  await engine.updateResources(requiredName('container_id', container_id), resourcesFrom(linux));
  return {};
}
