/**
 * Pull: as PullImage, for people, who want to see how it stands.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { PullRequest, PullResponse } from './node-messages.ts';
import { whileUnderWay } from './while-under-way.ts';

/** @throws {BerthError} INVALID_ARGUMENT without a reference, else as the images' pull. */
export async function* watchedPull({ images }: Pick<CriDeps, 'images'>, request: PullRequest, signal: AbortSignal): AsyncGenerator<PullResponse> {
  const reference = requiredName('image', request.image);
  const { id } = yield* whileUnderWay((onStart) => images.pull({ reference, signal, onStart }));
  yield { id };
}
