/**
 * Reads the panels and queries of deploy/grafana-dashboard.json.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export type Target = { readonly expr: string; readonly legendFormat: string };

export type Panel = {
  readonly title: string;
  readonly type: 'row' | 'stat' | 'timeseries';
  /** In units of Grafana's grid, which is 24 units wide. */
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly fieldConfig?: { readonly defaults: { readonly unit: string } };
  readonly targets?: readonly Target[];
};

export const deployDir = resolve(import.meta.dirname, '../../deploy');

/** Returns the panels of the dashboard. */
export function dashboardPanels(): readonly Panel[] {
  return (JSON.parse(readFileSync(join(deployDir, 'grafana-dashboard.json'), 'utf8')) as { panels: Panel[] }).panels;
}

/** Replaces the variables of a query as Grafana does. */
export const substituteVariables = (query: string, rateInterval = '1m'): string =>
  query.replaceAll('$__rate_interval', rateInterval).replaceAll('$instance', '.*');
