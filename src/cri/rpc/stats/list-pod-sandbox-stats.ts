/**
 * ListPodSandboxStats and StreamPodSandboxStats: what the ready pods that match a filter use.
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
  for await (const portion of portions(deps, request)) stats.push(...portion);
  return { stats };
}

/** A message for each portion, as it is read. */
export async function* streamPodSandboxStats(deps: Deps, request: StreamPodSandboxStatsRequest): AsyncGenerator<StreamPodSandboxStatsResponse> {
  for await (const portion of portions(deps, request)) yield { pod_sandbox_stats: portion };
}

async function* portions({ engine, settings }: Deps, { filter }: ListPodSandboxStatsRequest): AsyncGenerator<PodSandboxStats[]> {
  const views = selectSandboxes(engine.sandboxes(), filter);
  for await (const portion of engine.stats.sandboxes(views)) yield portion.map((each) => podSandboxStats(each, settings.rootDir));
}
