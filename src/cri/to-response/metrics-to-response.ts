/**
 * Converts the metrics of pods to CRI messages. Pure.
 *
 * Values in the CRI are integers, so seconds are truncated, as in other runtimes.
 */
import type { SandboxMetrics } from '../../engine/usage/pod-metrics.ts';
import type * as cri from '../wire/messages.ts';
import { type MetricValue, metricFamilies, type Series, sandboxSeries } from './metric-families.ts';

export function metricDescriptors(): cri.MetricDescriptor[] {
  return metricFamilies.map(({ name, help, labels }) => ({ name, help, label_keys: [...labels] }));
}

export function podSandboxMetrics(details: SandboxMetrics): cri.PodSandboxMetrics {
  const { own, containers } = sandboxSeries(details);
  return {
    pod_sandbox_id: details.stats.record.id,
    metrics: own.map(metric),
    container_metrics: [...containers].map(([id, series]) => ({ container_id: id, metrics: series.map(metric) })),
  };
}

/** Without a timestamp: the values are current. */
function metric({ family, labels, value }: Series): cri.Metric {
  return { name: family.name, metric_type: family.type, label_values: [...labels], value: { value: whole(value) } };
}

const whole = (value: MetricValue): string => String(typeof value === 'object' ? value.ns / 1_000_000_000n : value);
