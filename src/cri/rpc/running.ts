/**
 * Checks that a container is running before a client is sent to the streaming server. Pure.
 */
import { type ContainerView, containerState } from '../../engine/state/records.ts';
import { failedPrecondition } from '../../lib/errors.ts';

/** @throws {BerthError} FAILED_PRECONDITION `<attempt> container <name>: not running (<state>)`. */
export function requireRunning(attempt: string, { record, status }: ContainerView): void {
  const state = containerState(status);
  if (state !== 'running') throw failedPrecondition(`${attempt} container ${record.spec.metadata.name}: not running (${state})`);
}
