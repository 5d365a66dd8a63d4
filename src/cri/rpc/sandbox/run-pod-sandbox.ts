/**
 * RunPodSandbox: creates a pod's namespaces and sets up its network.
 */
import type { CriDeps } from '../../deps.ts';
import { sandboxSpecFrom } from '../../from-request/sandbox-from-request.ts';
import type { RunPodSandboxRequest, RunPodSandboxResponse } from '../../wire/messages.ts';

/** @throws {BerthError} as sandboxSpecFrom() and the engine. A retry after a deadline returns the sandbox that the first call created. */
export async function runPodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: RunPodSandboxRequest): Promise<RunPodSandboxResponse> {
  return { pod_sandbox_id: await engine.runSandbox(sandboxSpecFrom(request, engine.facts())) };
}
