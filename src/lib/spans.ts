/**
 * Traces as the parts of the daemon see them: work runs within a named span of what is under way. Nothing here knows who collects spans.
 *
 * Pure. No span tells a secret: names and attributes are ids, names, sizes and codes; an error is its one-line message.
 */

/** By OpenTelemetry's semantic conventions where they have a name for it. */
export type Attributes = Readonly<Record<string, string | number | boolean>>;

export type Span = {
  /** False: nobody will see it, so that nothing need be found out for it. */
  readonly isRecorded: boolean;
  readonly set: (attributes: Attributes) => void;
  /** For work that tells of a failure instead of throwing it. */
  readonly fail: (error: unknown) => void;
  /** A part of it that is over; from and to in milliseconds of performance.now(). */
  readonly addPart: (name: string, fromMs: number, toMs: number, attributes?: Attributes) => void;
};

/**
 * Does work within a span, which ends with the work, or with the promise that the work gives. What the work throws, or rejects with, is the span's failure.
 * Outside a call, and within one that nobody traces, it does the work and nothing else.
 */
export type Trace = <T>(name: string, work: (span: Span) => T) => T;

/** What a caller sent beside its request: https://www.w3.org/TR/trace-context/. */
export type TraceHeaders = { readonly traceparent?: string; readonly tracestate?: string };

/** The same for a call from outside: its span's parent is the caller's, if it named one. */
export type TraceCall = <T>(name: string, headers: TraceHeaders, work: (span: Span) => T) => T;

const unseen: Span = { isRecorded: false, set: () => {}, fail: () => {}, addPart: () => {} };

export const untraced: Trace = (_name, work) => work(unseen);

/** Does work, and calls back when it is over: when it returns or throws, or when the promise that it gives is settled. */
export function whenOver<T>(work: () => T, over: (failure?: { readonly error: unknown }) => void): T {
  let result: T;
  try {
    result = work();
  } catch (error) {
    over({ error });
    throw error;
  }
  if (!(result instanceof Promise)) {
    over();
    return result;
  }
  const settled = result.then(
    (value: unknown) => {
      over();
      return value;
    },
    (error: unknown) => {
      over({ error });
      throw error;
    },
  );
  return settled as T;
}
