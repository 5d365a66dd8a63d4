/**
 * Attach: returns a URL at which one client can attach to the streams of the container's process.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { flagsFromRequest } from '../../from-request/stream-flags.ts';
import type { AttachRequest, AttachResponse } from '../../wire/messages.ts';
import { requireRunning } from '../running.ts';

/** @throws {BerthError} INVALID_ARGUMENT without a stream, FAILED_PRECONDITION if the container is not running. */
export async function attach({ engine, streaming }: Pick<CriDeps, 'engine' | 'streaming'>, request: AttachRequest): Promise<AttachResponse> {
  const container = engine.container(requiredName('container_id', request.container_id));
  requireRunning('attach to', container);
  return { url: streaming.prepareAttach({ containerId: container.record.id, ...flagsFromRequest(request) }) };
}
