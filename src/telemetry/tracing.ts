/**
 * Sends the daemon's spans by OTLP over HTTP. A program file of its own: a daemon without tracing does not even load it.
 *
 * Whether a call is traced is its caller's decision, where it has made one. A receiver that is slow or away costs spans and nothing else.
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
  /** Sends what there is, for a moment. */
  readonly close: () => Promise<void>;
};

export type TracingOptions = {
  /** The URL that spans are posted to. */
  readonly endpoint: string;
  readonly samplingRatePerMillion: number;
  readonly version: string;
  readonly log: Log;
  /** The code of an error. Given, for a bundle of this file has another class of errors than the daemon's. */
  readonly codeOf: (error: unknown) => string;
  /** For metrics: told what became of spans. */
  readonly observe?: (result: SpanResult, spans: number) => void;
};

type SpanResult = 'exported' | 'failed' | 'dropped';

/** Some 700 B each; a pod's start is about thirty. */
const queuedSpansMax = 4096;
const batchSpansMax = 512;
/** Of all that was sent later than this, a daemon that ends leaves the rest. */
const closeTimeoutMs = 3_000;
/** An error's message is a line, but it may name long paths. */
const textLengthMax = 1024;

/** What is under way in a call that is traced, and what turns performance.now() into milliseconds since the epoch in it. */
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
    // Of a clock that may be set, once a call: within it times must fit each other.
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
    // What a kubelet calls its node unless told otherwise; OTEL_RESOURCE_ATTRIBUTES can.
    'k8s.node.name': hostname(),
  });
  return new TracerProvider({
    resource: own.merge(detectResources({ detectors: [envDetector] })),
    sampler: new ParentBasedSampler({ root: new TraceIdRatioBasedSampler(options.samplingRatePerMillion / 1e6) }),
    spanLimits: { attributeValueLengthLimit: textLengthMax },
    spanProcessors: [createProcessor(options)],
  });
}

/** Batches, at most so many spans at a time in memory. What comes above that is dropped and counted, as is what the receiver does not take. */
function createProcessor({ endpoint, log, observe }: TracingOptions): SpanProcessor {
  const exporter = new OTLPTraceExporter({ url: endpoint });
  let queued = 0;
  let isFailing = false;
  const tell = (error: unknown) => {
    const wasFailing = isFailing;
    isFailing = error !== undefined;
    // At the first of many, and at the end of them.
    if (isFailing && !wasFailing) log.warn({ reason: reasonOf(error) }, 'spans cannot be sent');
    if (!isFailing && wasFailing) log.info({}, 'spans can be sent again');
  };
  const counting: SpanExporter = {
    export: (spans, done) => {
      exporter.export(spans, (result) => {
        queued -= spans.length;
        const isSent = result.code === ExportResultCode.SUCCESS;
        observe?.(isSent ? 'exported' : 'failed', spans.length);
        tell(isSent ? undefined : (result.error ?? 'the receiver does not take them'));
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
