/**
 * RemovePodSandbox: leaves nothing of a sandbox and its containers but their logs; succeeds for one that is not there.
 */
import { requiredName } from './checks.ts';
import type { CriDeps } from './deps.ts';
import type { RemovePodSandboxRequest, RemovePodSandboxResponse } from './messages.ts';

/** @throws {BerthError} INVALID_ARGUMENT without an id, else as the engine. */
export async function removePodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: RemovePodSandboxRequest): Promise<RemovePodSandboxResponse> {
  await engine.removeSandbox(requiredName('pod_sandbox_id', request.pod_sandbox_id));
  return {};
}
