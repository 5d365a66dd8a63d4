/**
 * ListMetricDescriptors: what ListPodSandboxMetrics can tell. The kubelet asks once, at its start.
 */
import type { CriDeps } from './deps.ts';
import type { ListMetricDescriptorsResponse } from './messages.ts';
import { metricDescriptors } from './metrics-to-response.ts';

export async function listMetricDescriptors(_deps: Pick<CriDeps, never>): Promise<ListMetricDescriptorsResponse> {
  return { descriptors: metricDescriptors() };
}
