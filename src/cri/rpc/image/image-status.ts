/**
 * ImageStatus: describes an image on this node. For an unknown image the response is empty; it is not an error.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { image } from '../../to-response/to-response.ts';
import type { ImageStatusRequest, ImageStatusResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT for a missing or invalid reference. */
export async function imageStatus({ images }: Pick<CriDeps, 'images'>, request: ImageStatusRequest): Promise<ImageStatusResponse> {
  const found = images.find(requiredName('image.image', request.image?.image));
  if (found === undefined) return {};
  return { image: image(found), info: request.verbose ? { info: JSON.stringify(await images.explain(found)) } : {} };
}
