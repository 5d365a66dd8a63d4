/**
 * RemoveImage: takes all names of an image away; what runs on it runs on. Succeeds for one that is not there.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { RemoveImageRequest, RemoveImageResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without a reference, or for one that cannot be read. */
export async function removeImage({ images }: Pick<CriDeps, 'images'>, request: RemoveImageRequest): Promise<RemoveImageResponse> {
  await images.remove(requiredName('image.image', request.image?.image));
  return {};
}
