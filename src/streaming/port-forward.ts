/**
 * Port-forward over SPDY: the client opens pairs of streams; each pair is a connection to a port of the pod sandbox.
 *
 * A failed connection ends its own pair only; the client's other connections continue. Pure: it uses only the given link and backend.
 *
 *   client  SYN_STREAM streamType=error port=80 requestID=7
 *           SYN_STREAM streamType=data  port=80 requestID=7     connected, bytes in both directions
 *   server  error stream: on failure a message, then both streams are reset; on success nothing, then both end
 */
import { failedTo, reasonOf } from '../lib/errors.ts';
import type { StreamingBackend } from './backend.ts';
import type { Link, LinkHandlers } from './link.ts';
import { relay } from './relay.ts';
import { SpdyConnection, type SpdyStream } from './spdy-connection.ts';
import { resetStatus } from './spdy-frames.ts';

export type ForwardDeps = {
  readonly backend: Pick<StreamingBackend, 'connect'>;
  /** Time for the client to open the second stream of a pair. */
  readonly creationTimeoutMs: number;
  /** Time that one direction may stay idle after the other has ended. */
  readonly halfCloseGraceMs: number;
};

type Pair = { error?: SpdyStream; data?: SpdyStream; readonly timer: NodeJS.Timeout };

/** Serves a client until it disconnects. @param openLink opens the connection with the given handlers. @returns `close()`, and a promise of the end. */
export function forwardOverSpdy(
  deps: ForwardDeps,
  sandboxId: string,
  openLink: (handlers: LinkHandlers) => Link,
): { close: () => void; closed: Promise<void> } {
  const pairs = new Map<string, Pair>();
  const closed = Promise.withResolvers<void>();
  const onStream = (stream: SpdyStream) => {
    const pair = addToPair(deps, pairs, stream);
    if (pair?.error && pair.data) void serve(deps, sandboxId, pair.error, pair.data);
  };
  const onClose = () => {
    for (const { timer } of pairs.values()) clearTimeout(timer);
    pairs.clear();
    closed.resolve();
  };
  const connection: SpdyConnection = new SpdyConnection(
    openLink({
      onBytes: (chunk) => connection.receive(chunk),
      onClose: () => connection.lost(),
      onHeartbeat: () => connection.heartbeat(),
    }),
    { onStream, onClose },
  );
  return { close: () => connection.close(), closed: closed.promise };
}

/** Adds a stream to its pair. @returns the pair, or undefined if the stream is invalid and was reset. A complete pair is removed from `pairs`. */
function addToPair(deps: ForwardDeps, pairs: Map<string, Pair>, stream: SpdyStream): Pair | undefined {
  const type = stream.headers.get('streamtype');
  if ((type !== 'error' && type !== 'data') || portOf(stream) === undefined) {
    stream.reset(resetStatus.protocolError);
    return undefined;
  }
  const id = requestIdOf(stream, type);
  const pair = pairs.get(id) ?? { timer: setTimeout(() => timeOut(pairs, id), deps.creationTimeoutMs) };
  if (pair[type] !== undefined) {
    stream.reset(resetStatus.protocolError);
    return undefined;
  }
  pair[type] = stream;
  // The client sends nothing useful on an error stream.
  if (type === 'error') stream.inbound.discard();
  if (pair.error && pair.data) {
    clearTimeout(pair.timer);
    pairs.delete(id);
  } else {
    pairs.set(id, pair);
    void stream.broken.then(() => forget(pairs, id, pair));
  }
  return pair;
}

function forget(pairs: Map<string, Pair>, id: string, pair: Pair): void {
  if (pairs.get(id) !== pair) return;
  clearTimeout(pair.timer);
  pairs.delete(id);
  pair.error?.reset();
  pair.data?.reset();
}

function timeOut(pairs: Map<string, Pair>, id: string): void {
  const pair = pairs.get(id);
  pairs.delete(id);
  if (pair?.error) void fail(pair.error, undefined, `port-forward: timed out waiting for the data stream of request ${id}`);
  pair?.data?.reset();
}

/** Clients without request ids open the data stream right after the error stream. */
function requestIdOf(stream: SpdyStream, type: 'error' | 'data'): string {
  return stream.headers.get('requestid') ?? String(type === 'error' ? stream.id : stream.id - 2);
}

function portOf(stream: SpdyStream): number | undefined {
  const text = stream.headers.get('port') ?? '';
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return port > 0 && port <= 65_535 ? port : undefined;
}

async function serve(deps: ForwardDeps, sandboxId: string, error: SpdyStream, data: SpdyStream): Promise<void> {
  const port = portOf(data) ?? 0;
  const connected = await deps.backend.connect(sandboxId, port).then(
    (socket) => ({ socket }),
    (cause: unknown) => ({ reason: reasonOf(failedTo(`port-forward to port ${port} of sandbox ${sandboxId}`, cause)) }),
  );
  if ('reason' in connected) return fail(error, data, connected.reason);
  if (data.isBroken) return void connected.socket.on('error', () => {}).destroy();
  const sink = { write: (chunk: Buffer) => data.write(chunk), end: () => data.end() };
  const end = await relay({ inbound: data.inbound, sink, broken: data.broken }, connected.socket, deps.halfCloseGraceMs);
  if (end === 'broken') {
    // Without a message: clients close all their connections after one.
    data.reset();
    error.reset();
    return;
  }
  data.end();
  error.end();
  // In case the client has not ended its side.
  data.reset();
}

async function fail(error: SpdyStream, data: SpdyStream | undefined, reason: string): Promise<void> {
  await error.write(Buffer.from(reason));
  error.reset();
  data?.reset();
}
