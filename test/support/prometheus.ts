/**
 * Runs Prometheus with the scrape configuration and the alerts of deploy/ for a daemon on loopback.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deployDir } from './dashboard.ts';

export type RangeSeries = { readonly metric: Readonly<Record<string, string>>; readonly values: readonly (readonly [number, string])[] };

export type Prometheus = {
  /** Runs an instant query. Returns no results while Prometheus is starting. */
  readonly query: (query: string) => Promise<unknown[]>;
  /** Runs a range query. Times are in seconds since the epoch. */
  readonly queryRange: (query: string, range: { readonly start: number; readonly end: number; readonly step: number }) => Promise<RangeSeries[]>;
  readonly stop: () => Promise<void>;
};

/** Starts Prometheus. @param target `ADDRESS:PORT` of the daemon's metrics, scraped once a second. */
export function startPrometheus({ workDir, target }: { readonly workDir: string; readonly target: string }): Prometheus {
  const address = '127.0.0.1:19490';
  const configFile = join(workDir, 'prometheus.yml');
  const settings = readFileSync(join(deployDir, 'prometheus.yml'), 'utf8');
  writeFileSync(configFile, settings.replaceAll('127.0.0.1:9418', target).replace('30s', '1s').replace('- alerts.yml', `- ${deployDir}/alerts.yml`));
  const flags = [`--config.file=${configFile}`, `--storage.tsdb.path=${join(workDir, 'tsdb')}`, `--web.listen-address=${address}`];
  const child = spawn('prometheus', flags, { stdio: 'ignore' });
  const get = async <T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T[]> => {
    const response = await fetch(`http://${address}/api/v1/${path}?${new URLSearchParams(parameters)}`).catch(() => undefined);
    // Unavailable while Prometheus is starting.
    if (!response?.ok) return [];
    return ((await response.json()) as { data: { result: T[] } }).data.result;
  };
  return {
    query: (query) => get('query', { query }),
    queryRange: (query, { start, end, step }) => get('query_range', { query, start: String(start), end: String(end), step: String(step) }),
    stop: async () => {
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}
