/**
 * RemovePodSandbox: removes a sandbox and its containers but not their logs. Succeeds for an unknown sandbox.
 */

import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from '../../wire/messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function removePodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: RemovePodSandboxRequest): Promise<RemovePodSandboxResponse> {
  await engine.removeSandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  return {};
}
