/**
 * Exports the daemon's spans with OTLP over HTTP. A separate bundle, which is loaded only if tracing is enabled.
 *
 * The caller's sampling decision is used if there is one. A slow or unreachable receiver loses spans, and has no other effect.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { type Context, trace as contexts, ROOT_CONTEXT, SpanKind, SpanStatusCode, type Tracer } from '@opentelemetry/api';
import { ExportResultCode, W3CTraceContextPropagator } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import {
  BatchSpanProcessor,
  ParentBasedSampler,
  type SpanExporter,
  type SpanProcessor,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import { endsWithin } from '../lib/deadline.ts';
import { reasonOf } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { type Span, type Trace, type TraceCall, type TraceHeaders, untraced, whenOver } from '../lib/spans.ts';

export type Tracing = {
  readonly trace: Trace;
  readonly traceCall: TraceCall;
  /** Exports the remaining spans, with a timeout. */
  readonly close: () => Promise<void>;
};

export type TracingOptions = {
  /** The URL to which spans are posted. */
  readonly endpoint: string;
  readonly samplingRatePerMillion: number;
  readonly version: string;
  readonly log: Log;
  /** Returns the code of an error. A parameter, because the bundle of this file has its own copy of the error class. */
  readonly codeOf: (error: unknown) => string;
  /** Counts spans by result, for metrics. */
  readonly observe?: (result: SpanResult, spans: number) => void;
};

type SpanResult = 'exported' | 'failed' | 'dropped';

/** About 700 bytes each. The start of a pod has about thirty. */
const queuedSpansMax = 4096;
const batchSpansMax = 512;
/** Timeout for exporting the remaining spans at shutdown. */
const closeTimeoutMs = 3_000;
/** Error messages are one line, but may contain long paths. */
const textLengthMax = 1024;

/** The current span of a traced call. `epochMs` added to performance.now() gives milliseconds since the epoch. */
type Active = { readonly context: Context; readonly epochMs: number };

export function createTracing(options: TracingOptions): Tracing {
  const provider = createProvider(options);
  const active = new AsyncLocalStorage<Active>();
  const tools: Tools = { tracer: provider.getTracer('berth', options.version), active, codeOf: options.codeOf };
  const propagator = new W3CTraceContextPropagator();
  const trace: Trace = (name, work) => {
    const parent = active.getStore();
    return parent === undefined ? untraced(name, work) : within(tools, { name, kind: SpanKind.INTERNAL, parent }, work);
  };
  const traceCall: TraceCall = (name, headers, work) => {
    // Read once per call: the clock may be set, and times within a call must be consistent.
    const epochMs = Date.now() - performance.now();
    const context = propagator.extract(ROOT_CONTEXT, headers, {
      keys: Object.keys,
      get: (from: TraceHeaders, key) => from[key as keyof TraceHeaders],
    });
    return within(tools, { name, kind: SpanKind.SERVER, parent: { context, epochMs } }, work);
  };
  const close = async () => void (await endsWithin(closeTimeoutMs, provider.shutdown()));
  return { trace, traceCall, close };
}

type Tools = { readonly tracer: Tracer; readonly active: AsyncLocalStorage<Active>; readonly codeOf: TracingOptions['codeOf'] };
type Start = { readonly name: string; readonly kind: SpanKind; readonly parent: Active };

function within<T>({ tracer, active, codeOf }: Tools, { name, kind, parent }: Start, work: (span: Span) => T): T {
  const { epochMs } = parent;
  const own = tracer.startSpan(name, { kind, startTime: epochMs + performance.now() }, parent.context);
  if (!own.isRecording()) return untraced(name, work);
  const context = contexts.setSpan(parent.context, own);
  const fail = (error: unknown) => {
    own.setAttributes({ 'error.type': codeOf(error) });
    own.setStatus({ code: SpanStatusCode.ERROR, message: reasonOf(error).slice(0, textLengthMax) });
  };
  const span: Span = {
    isRecorded: true,
    set: (attributes) => void own.setAttributes(attributes),
    fail,
    addPart: (part, fromMs, toMs, attributes = {}) =>
      tracer.startSpan(part, { startTime: epochMs + fromMs, attributes }, context).end(epochMs + toMs),
  };
  const end = (failure?: { readonly error: unknown }) => {
    if (failure !== undefined) fail(failure.error);
    own.end(epochMs + performance.now());
  };
  return active.run({ context, epochMs }, () => whenOver(() => work(span), end));
}

function createProvider(options: TracingOptions): TracerProvider {
  const own = resourceFromAttributes({
    'service.name': 'berth',
    'service.version': options.version,
    'service.instance.id': randomUUID(),
    'host.name': hostname(),
    // The kubelet's default node name. OTEL_RESOURCE_ATTRIBUTES overrides it.
    'k8s.node.name': hostname(),
  });
  return new TracerProvider({
    resource: own.merge(detectResources({ detectors: [envDetector] })),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(options.samplingRatePerMillion / 1e6) }),
    spanLimits: { attributeValueLengthLimit: textLengthMax },
    spanProcessors: [createProcessor(options)],
  });
}

/** Exports spans in batches. At most queuedSpansMax are in memory; further spans are dropped and counted, as are those that the receiver rejects. */
function createProcessor({ endpoint, log, observe }: TracingOptions): SpanProcessor {
  const exporter = new OTLPTraceExporter({ url: endpoint });
  let queued = 0;
  let isFailing = false;
  const logChange = (error: unknown) => {
    const wasFailing = isFailing;
    isFailing = error !== undefined;
    // Logs only the first failure, and the recovery.
    if (isFailing && !wasFailing) log.warn({ reason: reasonOf(error) }, 'failed to export spans');
    if (!isFailing && wasFailing) log.info({}, 'span export recovered');
  };
  const counting: SpanExporter = {
    export: (spans, done) => {
      exporter.export(spans, (result) => {
        queued -= spans.length;
        const isSent = result.code === ExportResultCode.SUCCESS;
        observe?.(isSent ? 'exported' : 'failed', spans.length);
        logChange(isSent ? undefined : (result.error ?? 'the receiver rejected them'));
        done(result);
      });
    },
    forceFlush: () => exporter.forceFlush(),
    shutdown: () => exporter.shutdown(),
  };
  const batches = new BatchSpanProcessor({ exporter: counting, maxQueueSize: queuedSpansMax, maxExportBatchSize: batchSpansMax });
  return {
    onStart: () => {},
    onEnd: (span) => {
      if (queued >= queuedSpansMax) return observe?.('dropped', 1);
      queued += 1;
      batches.onEnd(span);
    },
    forceFlush: () => batches.forceFlush(),
    shutdown: () => batches.shutdown(),
  };
}
