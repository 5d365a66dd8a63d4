/**
 * PullImage: brings an image to this node, ready to be stood on. Credentials of the request go to the registry and nowhere else.
 */

import type { CriDeps, PullAuth } from '../../deps.ts';
import { present, requiredName } from '../../from-request/checks.ts';
import { checkHandler } from '../../from-request/sandbox-from-request.ts';
import type { AuthConfig, PullImageRequest, PullImageResponse } from '../../wire/messages.ts';

/**
 * @returns the image's id: the same text as Image.id and image_id of containers.
 * @throws {BerthError} INVALID_ARGUMENT without a reference or for an unknown handler, else as the images' pull.
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
