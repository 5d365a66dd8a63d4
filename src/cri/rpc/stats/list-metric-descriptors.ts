/**
 * ListMetricDescriptors: describes the metrics of ListPodSandboxMetrics. The kubelet calls it once at startup.
 */
import type { CriDeps } from '../../deps.ts';
import { metricDescriptors } from '../../to-response/metrics-to-response.ts';
import type { ListMetricDescriptorsResponse } from '../../wire/messages.ts';

export async function listMetricDescriptors(_deps: Pick<CriDeps, never>): Promise<ListMetricDescriptorsResponse> {
  return { descriptors: metricDescriptors() };
}
