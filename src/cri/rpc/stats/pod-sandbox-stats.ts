/**
 * PodSandboxStats: the resource usage of one pod, in total and by container.
 */
import { failedPrecondition } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { podSandboxStats as toStats } from '../../to-response/stats-to-response.ts';
import type { PodSandboxStatsRequest, PodSandboxStatsResponse } from '../../wire/messages.ts';

/** @throws {BerthError} NOT_FOUND for an unknown id, FAILED_PRECONDITION for a sandbox that is not ready. */
export async function podSandboxStats(
  { engine, settings }: Pick<CriDeps, 'engine' | 'settings'>,
  { pod_sandbox_id }: PodSandboxStatsRequest,
): Promise<PodSandboxStatsResponse> {
  const view = engine.sandbox(requiredName('pod_sandbox_id', pod_sandbox_id));
  for await (const [stats] of engine.stats.sandboxes([view])) if (stats !== undefined) return { stats: toStats(stats, settings.rootDir) };
  throw failedPrecondition(`read stats of sandbox ${view.record.id}: not ready`);
}
