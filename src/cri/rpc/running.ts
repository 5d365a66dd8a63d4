/**
 * Refuses what only a running container can do, before a client is sent to the streaming server.
 */
import { type ContainerView, containerState } from '../../engine/state/records.ts';
import { failedPrecondition } from '../../lib/errors.ts';

/** @throws {BerthError} FAILED_PRECONDITION `<attempt> container <name>: it is <state>`. */
export function requireRunning(attempt: string, { record, status }: ContainerView): void {
  const state = containerState(status);
  if (state !== 'running') throw failedPrecondition(`${attempt} container ${record.spec.metadata.name}: it is ${state}`);
}
