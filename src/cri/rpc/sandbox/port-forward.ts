/**
 * PortForward: returns a URL at which one client can connect to ports in a sandbox. Each connection names its port, or the request lists them.
 */
import { sandboxState } from '../../../engine/state/records.ts';
import { failedPrecondition } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { PortForwardRequest, PortForwardResponse } from '../../wire/messages.ts';

/** @throws {BerthError} FAILED_PRECONDITION if the sandbox is not ready. */
export async function portForward(
  { engine, streaming }: Pick<CriDeps, 'engine' | 'streaming'>,
  request: PortForwardRequest,
): Promise<PortForwardResponse> {
  const { record, status } = engine.sandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  if (sandboxState(status) !== 'ready') throw failedPrecondition(`port-forward to sandbox ${record.spec.metadata.name}: not ready`);
  return { url: streaming.preparePortForward(record.id, request.port ?? []) };
}
