/**
 * Encodes the metrics of pods in the Prometheus text format 0.0.4. Pure.
 */
import { type MetricValue, metricFamilies, type Series } from './metric-families.ts';

/** @param series of all pods, in any order. @returns the text, without families that have no series. */
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

/** Escapes characters that would end a label value or its line. */
function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

/** Formats seconds with nine decimals, more than the precision of Prometheus. */
function number(value: MetricValue): string {
  if (typeof value !== 'object') return String(value);
  const digits = String(value.ns).padStart(10, '0');
  return `${digits.slice(0, -9)}.${digits.slice(-9)}`;
}
