/**
 * ListContainerStats and StreamContainerStats: what the running containers that match a filter use.
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

/** A container that ends meanwhile is left out. */
export async function listContainerStats(deps: Deps, request: ListContainerStatsRequest): Promise<ListContainerStatsResponse> {
  const stats: ContainerStats[] = [];
  for await (const portion of portions(deps, request)) stats.push(...portion);
  return { stats };
}

/** A message for each portion, as it is read. */
export async function* streamContainerStats(deps: Deps, request: StreamContainerStatsRequest): AsyncGenerator<StreamContainerStatsResponse> {
  for await (const portion of portions(deps, request)) yield { container_stats: portion };
}

async function* portions({ engine, settings }: Deps, { filter }: ListContainerStatsRequest): AsyncGenerator<ContainerStats[]> {
  const views = selectContainers(engine.containers(), filter);
  for await (const portion of engine.stats.containers(views)) yield portion.map((each) => containerStats(each, settings.rootDir));
}
