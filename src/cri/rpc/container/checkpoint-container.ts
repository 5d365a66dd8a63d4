/**
 * CheckpointContainer: writes a running container to an archive, for example for forensic analysis. The container keeps running.
 */
import { invalidArgument } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { absolutePath, requiredName } from '../../from-request/checks.ts';
import { secondsToMs } from '../../from-request/seconds.ts';
import type { CheckpointContainerRequest, CheckpointContainerResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id or an absolute location, or for a negative timeout; else as the engine. */
export async function checkpointContainer(
  { engine }: Pick<CriDeps, 'engine'>,
  request: CheckpointContainerRequest,
  signal: AbortSignal,
): Promise<CheckpointContainerResponse> {
  const id = requiredName('container_id', request.container_id);
  const location = absolutePath('location', request.location);
  if (Number(request.timeout ?? 0) < 0) throw invalidArgument(`timeout: ${request.timeout} is negative`);
  await engine.checkpoint(id, { location, timeoutMs: secondsToMs(request.timeout), signal });
  return {};
}
