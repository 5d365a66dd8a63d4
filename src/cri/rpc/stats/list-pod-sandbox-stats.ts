/**
 * ListPodSandboxStats and StreamPodSandboxStats: the resource usage of the ready pods that match a filter.
 */
import type { CriDeps } from '../../deps.ts';
import { podSandboxStats } from '../../to-response/stats-to-response.ts';
import type {
  ListPodSandboxStatsRequest,
  ListPodSandboxStatsResponse,
  PodSandboxStats,
  StreamPodSandboxStatsRequest,
  StreamPodSandboxStatsResponse,
} from '../../wire/messages.ts';
import { selectSandboxes } from '../filters.ts';

type Deps = Pick<CriDeps, 'engine' | 'settings'>;

export async function listPodSandboxStats(deps: Deps, request: ListPodSandboxStatsRequest): Promise<ListPodSandboxStatsResponse> {
  const stats: PodSandboxStats[] = [];
  for await (const batch of batches(deps, request)) stats.push(...batch);
  return { stats };
}

/** Sends a message for each batch, as it is read. */
export async function* streamPodSandboxStats(deps: Deps, request: StreamPodSandboxStatsRequest): AsyncGenerator<StreamPodSandboxStatsResponse> {
  for await (const batch of batches(deps, request)) yield { pod_sandbox_stats: batch };
}

async function* batches({ engine, settings }: Deps, { filter }: ListPodSandboxStatsRequest): AsyncGenerator<PodSandboxStats[]> {
  const views = selectSandboxes(engine.sandboxes(), filter);
  for await (const batch of engine.stats.sandboxes(views)) yield batch.map((each) => podSandboxStats(each, settings.rootDir));
}
