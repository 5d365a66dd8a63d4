/**
 * Every Prometheus metric of the daemon: name, unit, labels. Loaded only when metrics are served.
 *
 * Series are bounded: no label holds an id, a pod, an image or a text of an error. Names and units follow prometheus.io, "Metric and label naming".
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** What the daemon's parts tell when something has ended. `result` and `code` are `OK` or the name of a gRPC code. */
export type Observers = {
  /** A call has come; `call` tells its end. */
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
  /** `limit`: whose limit it was, of a few words. */
  readonly oomKills: (limit: (typeof oomLimits)[number], kills: number) => void;
  readonly containerEnd: (reason: EndReason) => void;
  /** What became of spans that were to be sent: exported, failed or dropped. */
  readonly spans: (result: string, spans: number) => void;
  /** Called when a session of exec, attach or port-forward begins, and what it gives back when it ends. */
  readonly session: (kind: SessionKind) => () => void;
};

/** Reasons of a container's end, as its status has them. `Unknown`: its monitor was lost. */
const endReasons = ['Completed', 'Error', 'OOMKilled', 'Unknown'] as const;
type EndReason = (typeof endReasons)[number];

const sessionKinds = ['exec', 'attach', 'portforward'] as const;
type SessionKind = (typeof sessionKinds)[number];

/** What is asked at each scrape. States that no object is in are there with 0. */
export type Sources = {
  readonly sandboxes: () => Readonly<Record<string, number>>;
  readonly containers: () => Readonly<Record<string, number>>;
  readonly monitors: () => number;
  readonly monitorBytes: () => number;
  readonly queuedOperations: () => number;
  readonly images: () => number;
  /** Pulls that are under way. */
  readonly pulls: () => number;
  /** Of the file systems that hold the daemon's directories, by the setting's name. */
  readonly disks: () => Readonly<Record<string, DiskSpace>>;
  readonly storage: () => Promise<{ readonly usedBytes: number; readonly inodesUsed: number }>;
  /** What pods and containers use, as text of the exposition format; absent where nobody asks for it. */
  readonly containerUse?: () => Promise<string>;
};

/** Free: for anybody but root. Some file systems count no inodes: 0 of 0. */
type DiskSpace = { readonly freeBytes: number; readonly totalBytes: number; readonly freeInodes: number; readonly totalInodes: number };

export type Metrics = {
  readonly observers: Observers;
  readonly watch: (sources: Sources) => void;
  /** The text of one scrape, in the exposition format. */
  readonly scrape: () => Promise<string>;
  readonly contentType: string;
  readonly close: () => void;
};

/** A poll takes a millisecond, a stop with its grace half a minute. */
const callSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const stepSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const pullSeconds = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];
const lagSeconds = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
const lagIntervalMs = 250;

/** Names that come from configuration files: more than any node has, and few enough to keep. */
const pluginNamesMax = 32;

/** The library's own for a Node process, without those that break the naming rules or measure what lag_seconds does better. */
const unwantedDefaults = /^nodejs_(active_|eventloop_)/;

/** @param build labels of the series that tells which berth this is. */
export function createMetrics(build: { readonly version: string; readonly node: string }): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 10_000 });
  for (const { name } of registry.getMetricsAsArray()) if (unwantedDefaults.test(name)) registry.removeSingleMetric(name);
  new Gauge({ name: 'berth_build_info', help: 'Which berth this is; always 1.', labelNames: ['version', 'node'], registers }).set(build, 1);
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
    help: 'Runs of CNI plugins that ended; result is OK or a code.',
    labelNames: ['plugin', 'command', 'result'],
    registers,
  });
  const pluginDuration = new Histogram({
    name: 'berth_cni_call_duration_seconds',
    help: 'Time that runs of CNI plugins took.',
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
    help: 'CRI calls that ended, by gRPC code.',
    labelNames: ['method', 'code'],
    registers,
  });
  const duration = new Histogram({
    name: 'berth_cri_call_duration_seconds',
    help: 'Time that CRI calls took.',
    labelNames: ['method'],
    buckets: callSeconds,
    registers,
  });
  const running = new Gauge({
    name: 'berth_cri_calls_running',
    help: 'CRI calls that have come and not ended; the kubelet keeps one of GetContainerEvents when it follows events.',
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
    help: 'Image pulls that ended; result is OK or the cause of the failure.',
    labelNames: ['result'],
    registers,
  });
  const pullDuration = new Histogram({
    name: 'berth_image_pull_duration_seconds',
    help: 'Time that successful image pulls took.',
    buckets: pullSeconds,
    registers,
  });
  const pullBytes = new Counter({
    name: 'berth_image_pull_bytes_total',
    help: 'Compressed bytes of layers that came, of pulls that ended.',
    registers,
  });
  const pullRetries = new Counter({
    name: 'berth_image_pull_retries_total',
    help: 'Requests of pulls that failed and were made again or of another host, and connections that broke.',
    registers,
  });
  const pullLayers = new Counter({ name: 'berth_image_pull_layers_total', help: 'Layers that were pulled: those here already are not.', registers });
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
    help: 'Time that each step took of making a sandbox, and of creating and starting a container.',
    labelNames: ['step'],
    buckets: stepSeconds,
    registers,
  });
  return (step, seconds) => steps.observe({ step }, seconds);
}

/** `inner`: of a cgroup inside the container; `outer`: of one above the pod's. */
const oomLimits = ['container', 'inner', 'pod', 'outer', 'node', 'unknown'] as const;

function observeOomKills(registers: Registers): Observers['oomKills'] {
  const kills = new Counter({
    name: 'berth_container_oom_kills_total',
    help: `Processes of containers that the kernel killed for want of memory, by whose limit it was: ${oomLimits.join(', ')}.`,
    labelNames: ['limit'],
    registers,
  });
  // There from the beginning, so that the first kill is an increase.
  for (const limit of oomLimits) kills.inc({ limit }, 0);
  return (limit, number) => kills.inc({ limit }, number);
}

function observeEnds(registers: Registers): Observers['containerEnd'] {
  const ends = new Counter({
    name: 'berth_container_ends_total',
    help: `Containers that ended, by reason: ${endReasons.join(', ')}. Unknown: the container's monitor was lost, and its exit code with it.`,
    labelNames: ['reason'],
    registers,
  });
  for (const reason of endReasons) ends.inc({ reason }, 0);
  return (reason) => ends.inc({ reason });
}

function observeSpans(registers: Registers): Observers['spans'] {
  const sent = new Counter({
    name: 'berth_trace_spans_total',
    help: 'Spans of traces that were exported, that failed because the receiver did not take them, or were dropped because too many waited.',
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
    help: 'Sessions of exec, attach and port-forward that are open.',
    labelNames,
    registers,
  });
  const begun = new Counter({
    name: 'berth_streaming_sessions_total',
    help: 'Sessions of exec, attach and port-forward that began.',
    labelNames,
    registers,
  });
  for (const kind of sessionKinds) {
    open.set({ kind }, 0);
    begun.inc({ kind }, 0);
  }
  return (kind) => {
    open.inc({ kind });
    begun.inc({ kind });
    return () => open.dec({ kind });
  };
}

function createGauges(registers: Registers, sources: Sources): void {
  // Each collects for itself: what one sets for another would be of the scrape before.
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
  single('berth_monitors', 'Monitors that run: each running container has one.', sources.monitors);
  single('berth_monitors_memory_bytes', 'Memory of all monitors; what they share with each other counts once.', sources.monitorBytes);
  single('berth_queued_operations', 'Operations on sandboxes and containers that run or wait for their turn.', sources.queuedOperations);
  single('berth_image_pulls_running', 'Image pulls that are under way.', sources.pulls);
  single('berth_images', 'Images on this node.', sources.images);
  single('berth_store_bytes', 'Bytes on disk that images and their layers take.', async () => (await sources.storage()).usedBytes);
  single('berth_store_inodes', 'Inodes that images and their layers take.', async () => (await sources.storage()).inodesUsed);
  const perDirectory = (name: string, help: string, key: keyof DiskSpace) =>
    perLabel('directory', name, `${help}, by the setting: root has images and writable layers, state the records.`, () =>
      Object.fromEntries(Object.entries(sources.disks()).map(([directory, space]) => [directory, space[key]])),
    );
  perDirectory('berth_filesystem_size_bytes', 'Size of the file system of a directory of the daemon', 'totalBytes');
  perDirectory('berth_filesystem_avail_bytes', 'Bytes free on the file system of a directory of the daemon', 'freeBytes');
  perDirectory('berth_filesystem_inodes', 'Inodes of the file system of a directory of the daemon', 'totalInodes');
  perDirectory('berth_filesystem_inodes_free', 'Inodes free on the file system of a directory of the daemon', 'freeInodes');
}

/** A timer that should come at even times, and how late it does: what a call waits for because JavaScript is at work. */
function measureLag(registers: Registers): NodeJS.Timeout {
  const lag = new Histogram({
    name: 'berth_event_loop_lag_seconds',
    help: 'How late the event loop was, sampled four times a second.',
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

/** The first so many names as they are, all later ones as `other`. */
function boundedLabel(namesMax: number): (name: string) => string {
  const known = new Set<string>();
  return (name) => {
    if (known.size < namesMax) known.add(name);
    return known.has(name) ? name : 'other';
  };
}
