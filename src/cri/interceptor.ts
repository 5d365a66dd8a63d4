/**
 * Around every handler: the caller's deadline becomes an AbortSignal, every rejection a status, every change of the node one log line.
 *
 * Decides nothing of what a call does.
 */
import type { Writable } from 'node:stream';
import type { handleBidiStreamingCall, handleServerStreamingCall, handleUnaryCall } from '@grpc/grpc-js';
import { BerthError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Attributes, TraceCall, TraceHeaders } from '../lib/spans.ts';
import { type Failure, failureFrom } from './wire/grpc-status.ts';

export type EdgeDeps = {
  readonly log: Log;
  /** For metrics: called once for each call that ended. `code` is `OK` or the name of a gRPC code. */
  readonly observe?: (rpc: string, code: string, seconds: number) => void;
  /** For metrics: called once for each call before its work, and followed by `observe`. */
  readonly observeBegin?: (rpc: string) => void;
  /** Each call is a span. */
  readonly traceCall?: TraceCall;
  /** Called after each call that may have changed something. */
  readonly afterChange?: () => void;
};

export type Guarded = {
  readonly rpc: string;
  /** With the service in front, as gRPC has it on the wire. */
  readonly path: string;
  /** For its span: what it is about. */
  readonly describe?: (request: unknown, response: unknown) => Attributes;
  /** It changes nothing and comes all the time: no line in the log, unless it fails in a way that nobody foresaw. */
  readonly isQuiet: boolean;
};

export type UnaryWork = (request: unknown, signal: AbortSignal) => Promise<unknown>;
export type StreamingWork = (request: unknown, signal: AbortSignal) => AsyncIterable<unknown> | Iterable<unknown>;

/** grpc-js knows nothing of promises: what `work` gives or throws becomes the answer. */
export function guardUnary(deps: EdgeDeps, guarded: Guarded, work: UnaryWork): handleUnaryCall<unknown, unknown> {
  return (call, callback) => {
    void supervise(deps, guarded, call, (signal) => work(call.request, signal)).then(({ response, failure }) => callback(failure ?? null, response));
  };
}

/** As guardUnary(); messages wait until the caller takes them. */
export function guardStreaming(deps: EdgeDeps, guarded: Guarded, work: StreamingWork): handleServerStreamingCall<unknown, unknown> {
  return (call) => {
    void supervise(deps, guarded, call, (signal) => pump(call, work(call.request, signal), signal)).then(({ failure }) => {
      if (failure === undefined) call.end();
      else call.emit('error', failure);
    });
  };
}

/** As guardStreaming(); `work` gets the caller's messages, and takes them as fast as it can. */
export function guardDuplex(deps: EdgeDeps, guarded: Guarded, work: StreamingWork): handleBidiStreamingCall<unknown, unknown> {
  return (call) => {
    const { metadata } = call;
    const known = { request: undefined, metadata, getDeadline: () => call.getDeadline(), on: call.on.bind(call) };
    void supervise(deps, guarded, known, (signal) => {
      // Whoever waits for the next message must not wait for ever.
      signal.addEventListener('abort', () => call.destroy());
      // What fails before the last message still has an answer.
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

/** What of a call of grpc-js is needed here. */
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
  // grpc-js says `cancelled` at the end of every call; by then nothing may be stopped any more.
  call.on('cancelled', () => {
    if (!hasEnded) controller.abort(reasonOfCancel(guarded.rpc, call.getDeadline()));
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
  // A list may come in parts, RFC 9110 section 5.3.
  const tracestate = metadata.get('tracestate').join(',');
  return traceparent === undefined ? {} : { traceparent, ...(tracestate === '' ? {} : { tracestate }) };
}

async function settle(work: () => Promise<unknown>, signal: AbortSignal): Promise<Outcome> {
  try {
    return { response: await work() };
  } catch (error) {
    // What Node throws when a signal aborts it does not say why; the signal does.
    const isAbort = signal.aborted && error instanceof Error && error.name === 'AbortError';
    return { failure: failureFrom(isAbort ? signal.reason : error) };
  }
}

function reasonOfCancel(rpc: string, deadline: Date | number): BerthError {
  const isLate = Date.now() >= Number(deadline);
  return isLate
    ? new BerthError('DEADLINE_EXCEEDED', `${rpc}: the caller's deadline has passed`)
    : new BerthError('CANCELLED', `${rpc}: the caller has gone`);
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

/** Of what a caller calls an object, a line of the log has so much: the longest names of images are shorter. */
const idLengthMax = 512;

/** The object that a message is about: never more of it, for there may be secrets in the rest. */
function idOf(message: unknown): string | undefined {
  const { container_id, pod_sandbox_id, image } = (message ?? {}) as {
    container_id?: unknown;
    pod_sandbox_id?: unknown;
    image?: { image?: unknown };
  };
  const id = container_id ?? pod_sandbox_id ?? image?.image;
  return typeof id === 'string' ? id.slice(0, idLengthMax) : undefined;
}
