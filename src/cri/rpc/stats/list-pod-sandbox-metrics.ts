/**
 * ListPodSandboxMetrics and StreamPodSandboxMetrics: the metrics of all ready pods and their running containers, for each scrape of the kubelet.
 */
import type { CriDeps } from '../../deps.ts';
import { podSandboxMetrics } from '../../to-response/metrics-to-response.ts';
import type {
  ListPodSandboxMetricsRequest,
  ListPodSandboxMetricsResponse,
  PodSandboxMetrics,
  StreamPodSandboxMetricsRequest,
  StreamPodSandboxMetricsResponse,
} from '../../wire/messages.ts';

type Deps = Pick<CriDeps, 'engine'>;

export async function listPodSandboxMetrics({ engine }: Deps, _request: ListPodSandboxMetricsRequest): Promise<ListPodSandboxMetricsResponse> {
  const metrics: PodSandboxMetrics[] = [];
  for await (const details of engine.podMetrics(engine.sandboxes())) metrics.push(podSandboxMetrics(details));
  return { pod_metrics: metrics };
}

/** Sends a message for each pod, as it is read. */
export async function* streamPodSandboxMetrics(
  { engine }: Deps,
  _request: StreamPodSandboxMetricsRequest,
): AsyncGenerator<StreamPodSandboxMetricsResponse> {
  for await (const details of engine.podMetrics(engine.sandboxes())) yield { pod_sandbox_metrics: [podSandboxMetrics(details)] };
}
