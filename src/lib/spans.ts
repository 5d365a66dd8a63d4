/**
 * The tracing interface of the daemon's modules: work runs within a named span. Knows nothing of the exporter.
 *
 * Pure. Spans contain no secrets: names and attributes are ids, names, sizes and codes; an error is its one-line message.
 */

/** Named by OpenTelemetry's semantic conventions where they define a name. */
export type Attributes = Readonly<Record<string, string | number | boolean>>;

export type Span = {
  /** False if the span is discarded: callers can skip computing attributes. */
  readonly isRecorded: boolean;
  readonly set: (attributes: Attributes) => void;
  /** For work that returns a failure instead of throwing it. */
  readonly fail: (error: unknown) => void;
  /** Adds a completed child span; from and to are in milliseconds of performance.now(). */
  readonly addPart: (name: string, fromMs: number, toMs: number, attributes?: Attributes) => void;
};

/**
 * Runs work within a span. The span ends when the work returns or, if it returns a promise, when that settles. An exception or rejection is recorded as
 * the span's failure. Outside a call, and in a call that is not traced, it only runs the work.
 */
export type Trace = <T>(name: string, work: (span: Span) => T) => T;

/** Trace context headers of a request: https://www.w3.org/TR/trace-context/. */
export type TraceHeaders = { readonly traceparent?: string; readonly tracestate?: string };

/** Like Trace, for an incoming call: the parent of its span is the caller's span, if the headers name one. */
export type TraceCall = <T>(name: string, headers: TraceHeaders, work: (span: Span) => T) => T;

const discardedSpan: Span = { isRecorded: false, set: () => {}, fail: () => {}, addPart: () => {} };

export const untraced: Trace = (_name, work) => work(discardedSpan);

/** Runs work and calls back when it ends: when it returns or throws or, if it returns a promise, when that settles. */
export function whenOver<T>(work: () => T, onEnd: (failure?: { readonly error: unknown }) => void): T {
  let result: T;
  try {
    result = work();
  } catch (error) {
    onEnd({ error });
    throw error;
  }
  if (!(result instanceof Promise)) {
    onEnd();
    return result;
  }
  const settled = result.then(
    (value: unknown) => {
      onEnd();
      return value;
    },
    (error: unknown) => {
      onEnd({ error });
      throw error;
    },
  );
  return settled as T;
}
