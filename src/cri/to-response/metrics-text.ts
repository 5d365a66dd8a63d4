/**
 * The metrics of pods in Prometheus' text format 0.0.4. Pure.
 */
import { type MetricValue, metricFamilies, type Series } from './metric-families.ts';

/** @param series of all pods, in any order. @returns families without series are left out. */
export function metricsText(series: readonly Series[]): string {
  const lines = Map.groupBy(series, ({ family }) => family.name);
  return metricFamilies
    .flatMap(({ name, help, type }) => {
      const own = lines.get(name);
      if (own === undefined) return [];
      return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type.toLowerCase()}`, ...own.map(line)];
    })
    .map((text) => `${text}\n`)
    .join('');
}

function line({ family, labels, value }: Series): string {
  const pairs = family.labels.map((key, index) => `${key}="${escaped(labels[index] ?? '')}"`);
  return `${family.name}{${pairs.join(',')}} ${number(value)}`;
}

/** What would end a label's value, or its line. */
function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

/** Seconds with all their nine digits: more than a double of Prometheus keeps. */
function number(value: MetricValue): string {
  if (typeof value !== 'object') return String(value);
  const digits = String(value.ns).padStart(10, '0');
  return `${digits.slice(0, -9)}.${digits.slice(-9)}`;
}
