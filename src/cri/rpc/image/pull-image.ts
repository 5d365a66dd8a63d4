/**
 * PullImage: pulls an image, ready for use. The credentials in the request are sent only to the registry.
 */

import type { CriDeps, PullAuth } from '../../deps.ts';
import { present, requiredName } from '../../from-request/checks.ts';
import { checkHandler } from '../../from-request/sandbox-from-request.ts';
import type { AuthConfig, PullImageRequest, PullImageResponse } from '../../wire/messages.ts';

/**
 * @returns the image's id, as in Image.id and in the image_id of containers.
 * @throws {BerthError} INVALID_ARGUMENT without a reference or for an unknown handler, else as the image store.
 */
export async function pullImage({ images }: Pick<CriDeps, 'images'>, request: PullImageRequest, signal: AbortSignal): Promise<PullImageResponse> {
  const reference = requiredName('image.image', request.image?.image);
  checkHandler(request.image?.runtime_handler ?? '');
  const { id } = await images.pull(present({ reference, auth: request.auth && pullAuth(request.auth), signal }));
  return { image_ref: id };
}

function pullAuth(auth: AuthConfig): PullAuth {
  return {
    username: auth.username ?? '',
    password: auth.password ?? '',
    auth: auth.auth ?? '',
    serverAddress: auth.server_address ?? '',
    identityToken: auth.identity_token ?? '',
    registryToken: auth.registry_token ?? '',
  };
}
