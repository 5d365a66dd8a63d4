/**
 * StopPodSandbox: stops all containers of a pod and releases its addresses. Idempotent; succeeds for an unknown sandbox.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { StopPodSandboxRequest, StopPodSandboxResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function stopPodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: StopPodSandboxRequest): Promise<StopPodSandboxResponse> {
  await engine.stopSandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  return {};
}
