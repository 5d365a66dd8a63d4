/**
 * All Prometheus metrics of the daemon: name, unit, labels. Loaded only if metrics are served. The metrics of pods and containers are in
 * src/cri/to-response/metric-families.ts.
 *
 * The number of series is bounded: no label contains an id, pod, image or error message. Names and units follow prometheus.io, "Metric and label naming".
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** Callbacks with which the daemon's modules report events. `result` and `code` are `OK` or the name of a gRPC code. */
export type Observers = {
  /** A call has started; `call` reports its end. */
  readonly callBegins: (rpc: string) => void;
  readonly call: (rpc: string, code: string, seconds: number) => void;
  readonly pull: (pull: {
    readonly result: string;
    readonly seconds: number;
    readonly bytes: number;
    readonly layers: number;
    readonly retries: number;
  }) => void;
  readonly plugin: (run: { readonly plugin: string; readonly command: string; readonly result: string; readonly seconds: number }) => void;
  readonly step: (step: string, seconds: number) => void;
  /** `limit`: which limit was reached. */
  readonly oomKills: (limit: (typeof oomLimits)[number], kills: number) => void;
  readonly containerEnd: (reason: EndReason) => void;
  /** `result`: exported, failed or dropped. */
  readonly spans: (result: string, spans: number) => void;
  /** Call it when an exec, attach or port-forward session starts, and call the returned function when the session ends. */
  readonly session: (kind: SessionKind) => () => void;
};

/** Termination reasons, as in the container's status. `Unknown`: the monitor was lost. */
const endReasons = ['Completed', 'Error', 'OOMKilled', 'Unknown'] as const;
type EndReason = (typeof endReasons)[number];

const sessionKinds = ['exec', 'attach', 'portforward'] as const;
type SessionKind = (typeof sessionKinds)[number];

/** Values read at each scrape. States without any object are present with 0. */
export type Sources = {
  readonly sandboxes: () => Readonly<Record<string, number>>;
  readonly containers: () => Readonly<Record<string, number>>;
  readonly monitors: () => number;
  readonly monitorBytes: () => number;
  readonly queuedOperations: () => number;
  readonly images: () => number;
  /** Pulls in progress. */
  readonly pulls: () => number;
  /** File systems of the daemon's directories, by the name of the setting. */
  readonly disks: () => Readonly<Record<string, DiskSpace>>;
  readonly storage: () => Promise<{ readonly usedBytes: number; readonly inodesUsed: number }>;
  /** Resource usage of pods and containers, as text in the exposition format. Absent if disabled. */
  readonly containerUse?: () => Promise<string>;
};

/** Free space excludes the blocks reserved for root. Some file systems do not count inodes and report 0 of 0. */
type DiskSpace = { readonly freeBytes: number; readonly totalBytes: number; readonly freeInodes: number; readonly totalInodes: number };

export type Metrics = {
  readonly observers: Observers;
  readonly watch: (sources: Sources) => void;
  /** The text of one scrape, in the exposition format. */
  readonly scrape: () => Promise<string>;
  readonly contentType: string;
  readonly close: () => void;
};

/** A status call takes a millisecond, StopContainer with its grace period half a minute. */
const callSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const stepSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const pullSeconds = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];
const lagSeconds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const lagIntervalMs = 250;

/** Plugin names come from configuration files. This is more than any node uses, and a small number of series. */
const pluginNamesMax = 32;

/** Default Node.js metrics of prom-client that break the naming rules or that berth_event_loop_lag_seconds measures better. */
const unwantedDefaults = /^nodejs_(active_|eventloop_)/;

/** @param build labels of berth_build_info. */
export function createMetrics(build: { readonly version: string; readonly node: string }): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 10_000 });
  for (const { name } of registry.getMetricsAsArray()) if (unwantedDefaults.test(name)) registry.removeSingleMetric(name);
  new Gauge({ name: 'berth_build_info', help: 'Versions of berth and Node.js as labels; always 1.', labelNames: ['version', 'node'], registers }).set(
    build,
    1,
  );
  const lagTimer = measureLag(registers);
  return {
    observers: createObservers(registers),
    watch: (sources) => createGauges(registers, sources),
    scrape: () => registry.metrics(),
    contentType: registry.contentType,
    close: () => clearInterval(lagTimer),
  };
}

type Registers = { readonly registers: Registry[] }['registers'];

function createObservers(registers: Registers): Observers {
  const pluginName = boundedLabel(pluginNamesMax);
  const plugins = new Counter({
    name: 'berth_cni_calls_total',
    help: 'Completed CNI plugin calls; result is OK or an error code.',
    labelNames: ['plugin', 'command', 'result'],
    registers,
  });
  const pluginDuration = new Histogram({
    name: 'berth_cni_call_duration_seconds',
    help: 'Duration of CNI plugin calls.',
    labelNames: ['plugin', 'command'],
    buckets: stepSeconds,
    registers,
  });
  return {
    ...observeCalls(registers),
    pull: observePulls(registers),
    plugin: ({ plugin: name, command, result, seconds }) => {
      const plugin = pluginName(name);
      plugins.inc({ plugin, command, result });
      pluginDuration.observe({ plugin, command }, seconds);
    },
    step: observeSteps(registers),
    oomKills: observeOomKills(registers),
    containerEnd: observeEnds(registers),
    spans: observeSpans(registers),
    session: observeSessions(registers),
  };
}

function observeCalls(registers: Registers): Pick<Observers, 'callBegins' | 'call'> {
  const calls = new Counter({
    name: 'berth_cri_calls_total',
    help: 'Completed CRI calls, by method and gRPC code.',
    labelNames: ['method', 'code'],
    registers,
  });
  const duration = new Histogram({
    name: 'berth_cri_call_duration_seconds',
    help: 'Duration of CRI calls, by method.',
    labelNames: ['method'],
    buckets: callSeconds,
    registers,
  });
  const running = new Gauge({
    name: 'berth_cri_calls_running',
    help: 'CRI calls in progress, by method. With evented PLEG, the kubelet keeps one GetContainerEvents call open.',
    labelNames: ['method'],
    registers,
  });
  return {
    callBegins: (method) => running.inc({ method }),
    call: (method, code, seconds) => {
      running.dec({ method });
      calls.inc({ method, code });
      duration.observe({ method }, seconds);
    },
  };
}

function observePulls(registers: Registers): Observers['pull'] {
  const pulls = new Counter({
    name: 'berth_image_pulls_total',
    help: 'Completed image pulls; result is OK or the cause of the failure.',
    labelNames: ['result'],
    registers,
  });
  const pullDuration = new Histogram({
    name: 'berth_image_pull_duration_seconds',
    help: 'Duration of successful image pulls.',
    buckets: pullSeconds,
    registers,
  });
  const pullBytes = new Counter({
    name: 'berth_image_pull_bytes_total',
    help: 'Compressed layer bytes downloaded by completed pulls.',
    registers,
  });
  const pullRetries = new Counter({
    name: 'berth_image_pull_retries_total',
    help: 'Retries in image pulls: requests repeated on the same or another host, and broken connections.',
    registers,
  });
  const pullLayers = new Counter({
    name: 'berth_image_pull_layers_total',
    help: 'Layers downloaded; layers already on the node are not counted.',
    registers,
  });
  return ({ result, seconds, bytes, layers, retries }) => {
    pulls.inc({ result });
    pullBytes.inc(bytes);
    pullRetries.inc(retries);
    pullLayers.inc(layers);
    if (result === 'OK') pullDuration.observe(seconds);
  };
}

function observeSteps(registers: Registers): Observers['step'] {
  const steps = new Histogram({
    name: 'berth_pod_start_step_duration_seconds',
    help: 'Duration of each step of creating a pod sandbox, creating a container and starting it.',
    labelNames: ['step'],
    buckets: stepSeconds,
    registers,
  });
  return (step, seconds) => steps.observe({ step }, seconds);
}

/** `inner`: a cgroup inside the container; `outer`: a cgroup above the pod. */
const oomLimits = ['container', 'inner', 'pod', 'outer', 'node', 'unknown'] as const;

function observeOomKills(registers: Registers): Observers['oomKills'] {
  const kills = new Counter({
    name: 'berth_container_oom_kills_total',
    help: `Container processes killed by the kernel's OOM killer, by the limit that was reached: ${oomLimits.join(', ')}.`,
    labelNames: ['limit'],
    registers,
  });
  // Create the series with 0, so that increase() counts the first kill.
  for (const limit of oomLimits) kills.inc({ limit }, 0);
  return (limit, number) => kills.inc({ limit }, number);
}

function observeEnds(registers: Registers): Observers['containerEnd'] {
  const ends = new Counter({
    name: 'berth_container_ends_total',
    help: `Containers that terminated, by reason: ${endReasons.join(', ')}. Unknown means that the monitor, and with it the exit code, was lost.`,
    labelNames: ['reason'],
    registers,
  });
  for (const reason of endReasons) ends.inc({ reason }, 0);
  return (reason) => ends.inc({ reason });
}

function observeSpans(registers: Registers): Observers['spans'] {
  const sent = new Counter({
    name: 'berth_trace_spans_total',
    help: 'Trace spans by result: exported, failed (the collector did not accept them) or dropped (the queue was full).',
    labelNames: ['result'],
    registers,
  });
  for (const result of ['exported', 'failed', 'dropped']) sent.inc({ result }, 0);
  return (result, spans) => sent.inc({ result }, spans);
}

function observeSessions(registers: Registers): Observers['session'] {
  const labelNames = ['kind'] as const;
  const open = new Gauge({
    name: 'berth_streaming_sessions',
    help: 'Open exec, attach and port-forward sessions.',
    labelNames,
    registers,
  });
  const started = new Counter({
    name: 'berth_streaming_sessions_total',
    help: 'Exec, attach and port-forward sessions started.',
    labelNames,
    registers,
  });
  for (const kind of sessionKinds) {
    open.set({ kind }, 0);
    started.inc({ kind }, 0);
  }
  return (kind) => {
    open.inc({ kind });
    started.inc({ kind });
    return () => open.dec({ kind });
  };
}

function createGauges(registers: Registers, sources: Sources): void {
  // Each gauge collects its own value. Gauges are collected in parallel: a value set by another gauge may be that of the previous scrape.
  const perLabel = (label: string, name: string, help: string, values: Sources['sandboxes']) =>
    new Gauge({
      name,
      help,
      labelNames: [label],
      registers,
      collect() {
        for (const [key, number] of Object.entries(values())) this.set({ [label]: key }, number);
      },
    });
  const single = (name: string, help: string, value: () => number | Promise<number>) =>
    new Gauge({
      name,
      help,
      registers,
      async collect() {
        this.set(await value());
      },
    });
  perLabel('state', 'berth_sandboxes', 'Pod sandboxes on this node, by state.', sources.sandboxes);
  perLabel('state', 'berth_containers', 'Containers on this node, by state.', sources.containers);
  single('berth_monitors', 'Running monitors; each running container has one.', sources.monitors);
  single('berth_monitors_memory_bytes', 'Memory used by all monitors; shared pages are counted once.', sources.monitorBytes);
  single('berth_queued_operations', 'Operations on sandboxes and containers that are running or queued.', sources.queuedOperations);
  single('berth_image_pulls_running', 'Image pulls in progress.', sources.pulls);
  single('berth_images', 'Images on this node.', sources.images);
  single('berth_store_bytes', 'Disk space used by images and their layers.', async () => (await sources.storage()).usedBytes);
  single('berth_store_inodes', 'Inodes used by images and their layers.', async () => (await sources.storage()).inodesUsed);
  const perDirectory = (name: string, help: string, key: keyof DiskSpace) =>
    perLabel('directory', name, `${help}. directory is the name of the setting: root (images and writable layers) or state (records).`, () =>
      Object.fromEntries(Object.entries(sources.disks()).map(([directory, space]) => [directory, space[key]])),
    );
  perDirectory('berth_filesystem_size_bytes', "Size of the file system of each of the daemon's directories", 'totalBytes');
  perDirectory('berth_filesystem_avail_bytes', "Free bytes on the file system of each of the daemon's directories", 'freeBytes');
  perDirectory('berth_filesystem_inodes', "Inodes of the file system of each of the daemon's directories", 'totalInodes');
  perDirectory('berth_filesystem_inodes_free', "Free inodes on the file system of each of the daemon's directories", 'freeInodes');
}

/** Measures how late a periodic timer fires: the time that a call waits because the event loop is busy. */
function measureLag(registers: Registers): NodeJS.Timeout {
  const lag = new Histogram({
    name: 'berth_event_loop_lag_seconds',
    help: "Lag of the daemon's event loop, sampled four times per second.",
    buckets: lagSeconds,
    registers,
  });
  let expectedMs = performance.now() + lagIntervalMs;
  return setInterval(() => {
    const nowMs = performance.now();
    lag.observe(Math.max(0, nowMs - expectedMs) / 1000);
    expectedMs = nowMs + lagIntervalMs;
  }, lagIntervalMs).unref();
}

/** Returns the first `namesMax` distinct names unchanged, and `other` for all later ones. */
function boundedLabel(namesMax: number): (name: string) => string {
  const known = new Set<string>();
  return (name) => {
    if (known.size < namesMax) known.add(name);
    return known.has(name) ? name : 'other';
  };
}
