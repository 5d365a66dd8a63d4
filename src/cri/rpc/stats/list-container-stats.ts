/**
 * ListContainerStats and StreamContainerStats: the resource usage of the running containers that match a filter.
 */
import type { CriDeps } from '../../deps.ts';
import { containerStats } from '../../to-response/stats-to-response.ts';
import type {
  ContainerStats,
  ListContainerStatsRequest,
  ListContainerStatsResponse,
  StreamContainerStatsRequest,
  StreamContainerStatsResponse,
} from '../../wire/messages.ts';
import { selectContainers } from '../filters.ts';

type Deps = Pick<CriDeps, 'engine' | 'settings'>;

/** Omits containers that exit meanwhile. */
export async function listContainerStats(deps: Deps, request: ListContainerStatsRequest): Promise<ListContainerStatsResponse> {
  const stats: ContainerStats[] = [];
  for await (const batch of batches(deps, request)) stats.push(...batch);
  return { stats };
}

/** Sends a message for each batch, as it is read. */
export async function* streamContainerStats(deps: Deps, request: StreamContainerStatsRequest): AsyncGenerator<StreamContainerStatsResponse> {
  for await (const batch of batches(deps, request)) yield { container_stats: batch };
}

async function* batches({ engine, settings }: Deps, { filter }: ListContainerStatsRequest): AsyncGenerator<ContainerStats[]> {
  const views = selectContainers(engine.containers(), filter);
  for await (const batch of engine.stats.containers(views)) yield batch.map((each) => containerStats(each, settings.rootDir));
}
