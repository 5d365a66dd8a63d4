/**
 * Converts the metrics of pods to CRI messages. Pure.
 *
 * `value` is an integer, so seconds are truncated there, as in other runtimes. `double_value`, which the kubelet reads from 1.38 on, is exact.
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
  return {
    name: family.name,
    metric_type: family.type,
    label_values: [...labels],
    value: { value: whole(value) },
    double_value: { value: exact(value) },
  };
}

const exact = (value: MetricValue): number => (typeof value === 'object' ? Number(value.ns) / 1e9 : Number(value));

const whole = (value: MetricValue): string => String(typeof value === 'object' ? value.ns / 1_000_000_000n : value);
