/**
 * The dashboard of deploy/, as its panels and their queries.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

export type Target = { readonly expr: string; readonly legendFormat: string };

export type Panel = {
  readonly title: string;
  readonly type: 'row' | 'stat' | 'timeseries';
  /** In the units of Grafana's grid, 24 of which are the width. */
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly fieldConfig?: { readonly defaults: { readonly unit: string } };
  readonly targets?: readonly Target[];
};

export const deployDir = resolve(import.meta.dirname, '../../deploy');

export function dashboardPanels(): readonly Panel[] {
  return (JSON.parse(readFileSync(join(deployDir, 'grafana-dashboard.json'), 'utf8')) as { panels: Panel[] }).panels;
}

/** A query with its variables put in, as Grafana does. */
export const fillIn = (query: string, rateInterval = '1m'): string =>
  query.replaceAll('$__rate_interval', rateInterval).replaceAll('$instance', '.*');
