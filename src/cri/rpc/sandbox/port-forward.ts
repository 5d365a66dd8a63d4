/**
 * PortForward: a URL where one client may connect to ports inside of a sandbox. Which ports, each connection says.
 */
import { sandboxState } from '../../../engine/state/records.ts';
import { failedPrecondition } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { PortForwardRequest, PortForwardResponse } from '../../wire/messages.ts';

/** @throws {BerthError} FAILED_PRECONDITION when the sandbox is not ready. */
export async function portForward(
  { engine, streaming }: Pick<CriDeps, 'engine' | 'streaming'>,
  request: PortForwardRequest,
): Promise<PortForwardResponse> {
  const { record, status } = engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  if (sandboxState(status) !== 'ready') throw failedPrecondition(`forwarding ports of sandbox ${record.spec.metadata.name}: it is not ready`);
  return { url: streaming.preparePortForward(record.id) };
}
