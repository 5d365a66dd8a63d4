/**
 * Wraps every RPC handler: turns the caller's deadline into an AbortSignal and rejections into gRPC statuses, and logs calls that change the node.
 *
 * Pure: it uses only the given dependencies. Independent of what a call does.
 */
import type { Writable } from 'node:stream';
import type { handleBidiStreamingCall, handleServerStreamingCall, handleUnaryCall } from '@grpc/grpc-js';
import { BerthError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Attributes, TraceCall, TraceHeaders } from '../lib/spans.ts';
import { withoutUserinfo } from '../lib/userinfo.ts';
import { type Failure, failureFrom } from './wire/grpc-status.ts';

export type EdgeDeps = {
  readonly log: Log;
  /** For metrics: called once at the end of each call. `code` is `OK` or the name of a gRPC code. */
  readonly observe?: (rpc: string, code: string, seconds: number) => void;
  /** For metrics: called once at the start of each call; `observe` follows. */
  readonly observeBegin?: (rpc: string) => void;
  /** Traces each call as a span. */
  readonly traceCall?: TraceCall;
  /** Called after each call that may have changed the node. */
  readonly afterChange?: () => void;
};

export type Guarded = {
  readonly rpc: string;
  /** The path on the wire: `/package.Service/Method`. */
  readonly path: string;
  /** Returns the attributes of the call's span. */
  readonly describe?: (request: unknown, response: unknown) => Attributes;
  /** For frequent calls that change nothing: logged at debug level, unless they fail unexpectedly. */
  readonly isQuiet: boolean;
};

export type UnaryWork = (request: unknown, signal: AbortSignal) => Promise<unknown>;
export type StreamingWork = (request: unknown, signal: AbortSignal) => AsyncIterable<unknown> | Iterable<unknown>;

/** Adapts a promise to a grpc-js handler: the result or rejection of `work` becomes the response. */
export function guardUnary(deps: EdgeDeps, guarded: Guarded, work: UnaryWork): handleUnaryCall<unknown, unknown> {
  return (call, callback) => {
    void supervise(deps, guarded, call, (signal) => work(call.request, signal)).then(({ response, failure }) => callback(failure ?? null, response));
  };
}

/** Like guardUnary(), for a stream of responses, with backpressure. */
export function guardStreaming(deps: EdgeDeps, guarded: Guarded, work: StreamingWork): handleServerStreamingCall<unknown, unknown> {
  return (call) => {
    void supervise(deps, guarded, call, (signal) => pump(call, work(call.request, signal), signal)).then(({ failure }) => {
      if (failure === undefined) call.end();
      else call.emit('error', failure);
    });
  };
}

/** Like guardStreaming(); `work` also receives the caller's messages, at its own pace. */
export function guardDuplex(deps: EdgeDeps, guarded: Guarded, work: StreamingWork): handleBidiStreamingCall<unknown, unknown> {
  return (call) => {
    const { metadata } = call;
    const known = { request: undefined, metadata, getDeadline: () => call.getDeadline(), on: call.on.bind(call) };
    void supervise(deps, guarded, known, (signal) => {
      // Do not wait for the next message forever.
      signal.addEventListener('abort', () => call.destroy());
      // Keep the call open, so that a failure before the last message can still be sent.
      return pump(call, work(call.iterator({ destroyOnReturn: false }), signal), signal);
    }).then(({ failure }) => {
      if (failure === undefined) call.end();
      else call.emit('error', failure);
    });
  };
}

async function pump(call: Writable, messages: AsyncIterable<unknown> | Iterable<unknown>, signal: AbortSignal): Promise<void> {
  for await (const message of messages) {
    signal.throwIfAborted();
    if (!call.write(message)) await drained(call, signal);
  }
}

function drained(call: Writable, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    call.once('drain', () => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    });
  });
}

/** The part of a grpc-js call used here. */
type Call = {
  readonly request: unknown;
  readonly metadata: { readonly get: (key: string) => readonly (string | Buffer)[] };
  readonly getDeadline: () => Date | number;
  readonly on: (event: 'cancelled', listener: () => void) => unknown;
};

type Outcome = { readonly response?: unknown; readonly failure?: Failure };

async function supervise(deps: EdgeDeps, guarded: Guarded, call: Call, work: (signal: AbortSignal) => Promise<unknown>): Promise<Outcome> {
  const startedAtMs = performance.now();
  deps.observeBegin?.(guarded.rpc);
  const controller = new AbortController();
  let hasEnded = false;
  // grpc-js emits `cancelled` at the end of every call, when nothing must be aborted any more.
  call.on('cancelled', () => {
    if (!hasEnded) controller.abort(cancelReason(guarded.rpc, call.getDeadline()));
  });
  const outcome = await traced(deps, guarded, call, () => settle(() => work(controller.signal), controller.signal));
  hasEnded = true;
  report(deps, guarded, call.request, outcome, performance.now() - startedAtMs);
  return outcome;
}

async function traced({ traceCall }: EdgeDeps, guarded: Guarded, call: Call, work: () => Promise<Outcome>): Promise<Outcome> {
  if (traceCall === undefined) return work();
  const method = guarded.path.replace(/^\//, '');
  return traceCall(method, headersOf(call), async (span) => {
    const outcome = await work();
    if (!span.isRecorded) return outcome;
    const { response, failure } = outcome;
    span.set({ 'rpc.system.name': 'grpc', 'rpc.method': method, 'rpc.status_code': failure?.name ?? 'OK' });
    span.set(guarded.describe?.(call.request, response) ?? {});
    if (failure !== undefined) span.fail(new BerthError(failure.name, failure.details));
    return outcome;
  });
}

function headersOf({ metadata }: Call): TraceHeaders {
  const [traceparent] = metadata.get('traceparent').map(String);
  // A list header may be split over several fields (RFC 9110, section 5.3).
  const tracestate = metadata.get('tracestate').join(',');
  return traceparent === undefined ? {} : { traceparent, ...(tracestate === '' ? {} : { tracestate }) };
}

async function settle(work: () => Promise<unknown>, signal: AbortSignal): Promise<Outcome> {
  try {
    return { response: await work() };
  } catch (error) {
    // Node's AbortError does not contain the reason; the signal does.
    const isAbort = signal.aborted && error instanceof Error && error.name === 'AbortError';
    return { failure: failureFrom(isAbort ? signal.reason : error) };
  }
}

/** The caller's time starts earlier than ours: when it is over, the caller cancels the call, and our deadline is still to come. */
const transitMsMax = 100;

function cancelReason(rpc: string, deadline: Date | number): BerthError {
  const isLate = Date.now() >= Number(deadline) - transitMsMax;
  return isLate
    ? new BerthError('DEADLINE_EXCEEDED', `${rpc}: the caller's deadline expired`)
    : new BerthError('CANCELLED', `${rpc}: canceled by the caller`);
}

function report(
  { log, observe, afterChange }: EdgeDeps,
  { rpc, isQuiet }: Guarded,
  request: unknown,
  { response, failure }: Outcome,
  durationMs: number,
): void {
  const code = failure?.name ?? 'OK';
  observe?.(rpc, code, durationMs / 1000);
  if (!isQuiet) afterChange?.();
  const fields = { rpc, id: idOf(response) ?? idOf(request), code, durationMs: Math.round(durationMs * 10) / 10 };
  if (failure === undefined) log[isQuiet ? 'debug' : 'info'](fields, 'call');
  else log[isQuiet && code !== 'INTERNAL' ? 'debug' : 'warn']({ ...fields, error: failure.details }, 'call failed');
}

/** Longer ids and names are truncated in the log. The longest image names are shorter. */
const idLengthMax = 512;

/** Returns the id of the object that a message names. Nothing else of a message is logged, because it may contain secrets. */
function idOf(message: unknown): string | undefined {
  const { container_id, pod_sandbox_id, image } = (message ?? {}) as {
    container_id?: unknown;
    pod_sandbox_id?: unknown;
    image?: { image?: unknown };
  };
  const id = container_id ?? pod_sandbox_id ?? image?.image;
  return typeof id === 'string' ? withoutUserinfo(id.slice(0, idLengthMax)) : undefined;
}
