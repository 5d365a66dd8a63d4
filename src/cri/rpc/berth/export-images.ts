/**
 * Export: streams images as one archive, with backpressure. Pure: the image store does the I/O.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { ExportRequest, ExportResponse } from '../../wire/berth-messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without images, else as the image store. */
export async function* exportImages(
  { images }: Pick<CriDeps, 'images'>,
  request: ExportRequest,
  signal: AbortSignal,
): AsyncGenerator<ExportResponse> {
  const references = (request.images ?? []).map((image) => requiredName('images', image));
  if (references.length === 0) throw invalidArgument('images: missing');
  const { totalBytes, bytes } = images.exportArchive(references, signal);
  yield { total_bytes: String(totalBytes) };
  for await (const archive of bytes) if (archive.length > 0) yield { archive };
}
