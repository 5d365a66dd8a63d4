/**
 * RemoveImage: removes all names of an image. Containers that use it keep running. Succeeds for an unknown image.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { RemoveImageRequest, RemoveImageResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT for a missing or invalid reference. */
export async function removeImage({ images }: Pick<CriDeps, 'images'>, request: RemoveImageRequest): Promise<RemoveImageResponse> {
  await images.remove(requiredName('image.image', request.image?.image));
  return {};
}
