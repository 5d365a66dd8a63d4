/**
 * Pull: pulls an image like PullImage, and reports progress.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { PullRequest, PullResponse } from '../../wire/berth-messages.ts';
import { reportProgress } from './report-progress.ts';

/** @throws {BerthError} INVALID_ARGUMENT without a reference, else as the image store. */
export async function* pullWithProgress(
  { images }: Pick<CriDeps, 'images'>,
  request: PullRequest,
  signal: AbortSignal,
): AsyncGenerator<PullResponse> {
  const reference = requiredName('image', request.image);
  const { id } = yield* reportProgress((onStart) => images.pull({ reference, signal, onStart }));
  yield { id };
}
