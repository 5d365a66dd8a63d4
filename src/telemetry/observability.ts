/**
 * Wires metrics, traces, and the reload of the log level.
 *
 * If metrics are disabled, their code is not loaded and nothing is counted. The same applies to traces.
 */
import type { Config, TracingSettings } from '../config.ts';
import { type Series, sandboxSeries } from '../cri/to-response/metric-families.ts';
import { metricsText } from '../cri/to-response/metrics-text.ts';
import type { EngineDeps } from '../engine/deps.ts';
import type { Engine } from '../engine/engine.ts';
import { type ContainerView, containerState, type ProcessIdentity } from '../engine/state/records.ts';
import { countContainers, countSandboxes } from '../engine/usage/counts.ts';
import type { ImagePuller } from '../images/pull/pull.ts';
import type { ImageStore } from '../images/store/store.ts';
import { codeOf, failedPrecondition, reasonOf } from '../lib/errors.ts';
import type { AdjustableLog, Log } from '../lib/log.ts';
import { diskSpace } from '../sys/node-probes.ts';
import { isAlive, proportionalBytes } from '../sys/process/processes.ts';
import type { Sources } from './metrics.ts';
import type { createMetricsServer, MetricsServer } from './metrics-server.ts';
import type { createTracing, Tracing } from './tracing.ts';

export type Observability = {
  /** Callbacks for the daemon's modules; undefined if metrics are disabled. */
  readonly observers: MetricsServer['observers'] | undefined;
  /** Starts to serve /metrics. @throws {BerthError} FAILED_PRECONDITION if it cannot listen on the address. */
  readonly serve: (deps: Pick<EngineDeps, 'store' | 'queue' | 'settings'>, images: ImageCounts, engine: UsageSource) => Promise<void>;
  readonly close: () => void;
};

type ImageCounts = Pick<ImageStore, 'list' | 'fsInfo'> & Pick<ImagePuller, 'pulls'>;

/** Source of the resource usage of pods and containers. */
type UsageSource = Pick<Engine, 'sandboxes' | 'podMetrics'>;

/** @param config.metrics `ADDRESS:PORT`; null disables metrics. @param config.metricsContainers includes the usage of pods and containers. */
export async function openObservability(config: Pick<Config, 'metrics' | 'metricsContainers'>, version: string): Promise<Observability> {
  const { metrics: address } = config;
  if (address === null) return { observers: undefined, serve: async () => {}, close: () => {} };
  const program = new URL('./metrics-server.ts', import.meta.url);
  const loaded = (await import(program.href)) as { createMetricsServer: typeof createMetricsServer };
  const server = loaded.createMetricsServer(version);
  return {
    observers: server.observers,
    serve: async ({ store, queue, settings }, images, engine) => {
      const sources = {
        sandboxes: () => countSandboxes(store.sandboxes.all()),
        containers: () => countContainers(store.containers.all()),
        monitors: () => monitorsOf(store.containers.all()).length,
        monitorBytes: () => monitorsOf(store.containers.all()).reduce((sum, { pid }) => sum + proportionalBytes(pid), 0),
        queuedOperations: queue.depth,
        images: () => images.list().length,
        pulls: () => images.pulls().length,
        disks: () => diskSpaces({ root: settings.rootDir, state: settings.stateDir }),
        storage: () => images.fsInfo(),
        ...(config.metricsContainers ? { containerUse: () => usageText(engine) } : {}),
      };
      await server.serve(address, sources).catch((error: unknown) => {
        throw failedPrecondition(`serve metrics on ${address}: ${reasonOf(error)}`, error);
      });
    },
    close: server.close,
  };
}

/** Returns the running monitors. */
function monitorsOf(containers: readonly ContainerView[]): readonly ProcessIdentity[] {
  const monitors = containers.flatMap(({ status }) => (containerState(status) === 'running' && status.monitor ? [status.monitor] : []));
  return monitors.filter(({ pid, startTime }) => isAlive(pid, startTime));
}

function diskSpaces(directories: Readonly<Record<string, string>>): ReturnType<Sources['disks']> {
  return Object.fromEntries(
    Object.entries(directories).flatMap(([name, path]) => {
      const space = diskSpace(path);
      return space === null ? [] : [[name, space]];
    }),
  );
}

async function usageText({ sandboxes, podMetrics }: UsageSource): Promise<string> {
  const series: Series[] = [];
  for await (const each of podMetrics(sandboxes())) {
    const { own, containers } = sandboxSeries(each);
    series.push(...own, ...[...containers.values()].flat());
  }
  return metricsText(series);
}

/** @returns undefined if tracing is disabled. */
export async function openTracing(
  settings: TracingSettings | null,
  { log, observers, version }: { readonly log: Log; readonly observers: Observability['observers']; readonly version: string },
): Promise<Tracing | undefined> {
  if (settings === null) return undefined;
  const program = new URL('./tracing.ts', import.meta.url);
  const loaded = (await import(program.href)) as { createTracing: typeof createTracing };
  return loaded.createTracing({ ...settings, version, log, codeOf, ...(observers ? { observe: observers.spans } : {}) });
}

/**
 * Installs a SIGHUP handler that sets the log level from the configuration. All other settings need a restart.
 *
 * @param readLevel throws if the configuration cannot be read: then the level is unchanged.
 */
export function adjustOnHangup(log: AdjustableLog, readLevel: () => string): void {
  process.on('SIGHUP', () => {
    try {
      log.level = readLevel();
      log.info({ level: log.level }, 'log level reloaded');
    } catch (error) {
      log.warn({ reason: reasonOf(error), level: log.level }, 'failed to reload the log level: the configuration cannot be read');
    }
  });
}
