/**
 * Port-forward over SPDY: pairs of streams that a client opens, each a connection to a port of the sandbox.
 *
 * A connection that fails is the end of its pair and of nothing else: the client's other connections go on.
 *
 *   client  SYN_STREAM streamType=error port=80 requestID=7
 *           SYN_STREAM streamType=data  port=80 requestID=7     connected, bytes both ways
 *   server  error stream: text when that failed, then both streams are reset; nothing when all went well, then both end
 */
import { failedTo, reasonOf } from '../lib/errors.ts';
import type { StreamingBackend } from './backend.ts';
import { relay } from './relay.ts';
import { resetStatus } from './spdy.ts';
import { SpdyConnection, type SpdyStream } from './spdy-connection.ts';
import type { Link, LinkHandlers } from './wire.ts';

export type ForwardDeps = {
  readonly backend: Pick<StreamingBackend, 'connect'>;
  /** For the second stream of a pair to come. */
  readonly creationTimeoutMs: number;
  /** For one direction to go on, silently, after the other has ended. */
  readonly halfCloseGraceMs: number;
};

type Pair = { error?: SpdyStream; data?: SpdyStream; readonly timer: NodeJS.Timeout };

/** Serves a client until it is gone. @param openLink begins the connection with these handlers. @returns what ends it, and its end. */
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

/** @returns the pair that the stream belongs to; undefined when it belongs to none, and is reset. A complete pair is no longer in `pairs`. */
function addToPair(deps: ForwardDeps, pairs: Map<string, Pair>, stream: SpdyStream): Pair | undefined {
  const type = stream.headers.get('streamtype');
  if ((type !== 'error' && type !== 'data') || portOf(stream) === undefined) {
    stream.reset(resetStatus.protocolError);
    return undefined;
  }
  const id = requestIdOf(stream, type);
  const pair = pairs.get(id) ?? { timer: setTimeout(() => giveUp(pairs, id), deps.creationTimeoutMs) };
  if (pair[type] !== undefined) {
    stream.reset(resetStatus.protocolError);
    return undefined;
  }
  pair[type] = stream;
  // Nothing of use comes on an error stream.
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

function giveUp(pairs: Map<string, Pair>, id: string): void {
  const pair = pairs.get(id);
  pairs.delete(id);
  if (pair?.error) void fail(pair.error, undefined, `port-forward: the data stream of request ${id} did not come in time`);
  pair?.data?.reset();
}

/** A client without request ids opens the data stream right after the error stream. */
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
    // Without a text: after one, clients give up all of their connections.
    data.reset();
    error.reset();
    return;
  }
  data.end();
  error.end();
  // Where the client has not ended its side.
  data.reset();
}

async function fail(error: SpdyStream, data: SpdyStream | undefined, reason: string): Promise<void> {
  await error.write(Buffer.from(reason));
  error.reset();
  data?.reset();
}
