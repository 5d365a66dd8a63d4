/**
 * StopPodSandbox: ends all of a pod's containers and takes its address back; may be repeated, and succeeds for one that is not there.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { StopPodSandboxRequest, StopPodSandboxResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function stopPodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: StopPodSandboxRequest): Promise<StopPodSandboxResponse> {
  await engine.stopSandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  return {};
}
