/**
 * Import: imports images from an archive that the caller sends. Reports progress, then the images.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { ImportRequest, ImportResponse } from '../../wire/berth-messages.ts';
import { reportProgress } from './report-progress.ts';

/** @throws {BerthError} as the image store. */
export async function* importImages(
  { images }: Pick<CriDeps, 'images'>,
  requests: AsyncIterable<ImportRequest>,
  signal: AbortSignal,
): AsyncGenerator<ImportResponse> {
  const messages = requests[Symbol.asyncIterator]();
  const first: ImportRequest = (await messages.next()).value ?? {};
  const name = first.name === undefined || first.name === '' ? undefined : requiredName('name', first.name);
  const archive = bytesOf(first, messages);
  const imported = yield* reportProgress((onStart) => images.importArchive({ archive, name, signal, onStart }));
  yield { images: imported.map(({ id, repoTags, repoDigests }) => ({ id, names: repoTags.length > 0 ? repoTags : repoDigests })) };
}

async function* bytesOf(first: ImportRequest, rest: AsyncIterator<ImportRequest>): AsyncGenerator<Buffer> {
  for (let message = first; ; ) {
    if (message.archive !== undefined && message.archive.length > 0) yield message.archive;
    const { done, value } = await rest.next();
    if (done === true) return;
    message = value;
  }
}
