/**
 * RunPodSandbox: makes a pod's namespaces and gives it its address.
 */
import type { CriDeps } from '../../deps.ts';
import { sandboxSpecFrom } from '../../from-request/sandbox-from-request.ts';
import type { RunPodSandboxRequest, RunPodSandboxResponse } from '../../wire/messages.ts';

/** @throws {BerthError} as sandboxSpecFrom() and the engine. A retry after a deadline gets the sandbox that the first call made. */
export async function runPodSandbox({ engine }: Pick<CriDeps, 'engine'>, request: RunPodSandboxRequest): Promise<RunPodSandboxResponse> {
  return { pod_sandbox_id: await engine.runSandbox(sandboxSpecFrom(request, engine.facts())) };
}
