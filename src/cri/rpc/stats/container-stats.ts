/**
 * ContainerStats: the resource usage of one running container.
 */
import { failedPrecondition } from '../../../lib/errors.ts';
import type { CriDeps } from '../../deps.ts';
import { requiredName } from '../../from-request/checks.ts';
import { containerStats as toStats } from '../../to-response/stats-to-response.ts';
import type { ContainerStatsRequest, ContainerStatsResponse } from '../../wire/messages.ts';

/** @throws {BerthError} NOT_FOUND for an unknown id, FAILED_PRECONDITION for a container that is not running. */
export async function containerStats(
  { engine, settings }: Pick<CriDeps, 'engine' | 'settings'>,
  { container_id }: ContainerStatsRequest,
): Promise<ContainerStatsResponse> {
  const view = engine.container(requiredName('container_id', container_id));
  for await (const [stats] of engine.stats.containers([view])) if (stats !== undefined) return { stats: toStats(stats, settings.rootDir) };
  throw failedPrecondition(`read stats of container ${view.record.id}: not running`);
}
