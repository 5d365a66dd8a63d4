/**
 * ListImages and StreamImages: list all images, or the one that a reference names.
 */
import type { CriDeps, ImageView } from '../../deps.ts';
import { EncodedMessage, encodedChunks } from '../../to-response/encoded.ts';
import type { ListImagesRequest, StreamImagesRequest } from '../../wire/messages.ts';

type Deps = Pick<CriDeps, 'images' | 'items'>;

/** @throws {BerthError} INVALID_ARGUMENT for an invalid reference. */
export async function listImages(deps: Deps, request: ListImagesRequest): Promise<EncodedMessage> {
  return new EncodedMessage(select(deps, request).map(deps.items.images));
}

/** The items field has the same number in both responses, so the encoded items are the same. */
export function streamImages(deps: Deps, request: StreamImagesRequest): Iterable<EncodedMessage> {
  return encodedChunks(select(deps, request).map(deps.items.images));
}

function select({ images }: Deps, { filter }: ListImagesRequest): readonly ImageView[] {
  const reference = filter?.image?.image ?? '';
  if (reference === '') return images.list();
  const found = images.find(reference);
  return found === undefined ? [] : [found];
}
