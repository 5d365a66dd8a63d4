/**
 * CheckpointContainer: writes a running container into an archive, for a look at it elsewhere. It runs on.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { absolutePath, requiredName } from '../../from-request/checks.ts';
import { secondsToMs } from '../../from-request/seconds.ts';
import type { CheckpointContainerRequest, CheckpointContainerResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, an absolute location, or with a timeout below 0; else as the engine. */
export async function checkpointContainer(
  { engine }: Pick<CriDeps, 'engine'>,
  request: CheckpointContainerRequest,
  signal: AbortSignal,
): Promise<CheckpointContainerResponse> {
  const id = requiredName('container_id', request.container_id);
  const location = absolutePath('location', request.location);
  if (Number(request.timeout ?? 0) < 0) throw invalidArgument(`timeout: ${request.timeout} is below 0`);
  await engine.checkpoint(id, { location, timeoutMs: secondsToMs(request.timeout), signal });
  return {};
}
