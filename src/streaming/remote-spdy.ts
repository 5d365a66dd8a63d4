/**
 * The streams of a remote command over SPDY: one SPDY stream each, identified by its `streamType` header. Pure: it uses only the given link.
 */
import type { StreamFlags } from './backend.ts';
import type { Link, LinkHandlers } from './link.ts';
import { expectedStreams } from './remote-command.ts';
import type { RemoteClient, RemoteStreams, Sink } from './remote-streams.ts';
import { SpdyConnection, type SpdyStream } from './spdy-connection.ts';
import { resetStatus } from './spdy-frames.ts';

/**
 * Accepts a client over SPDY.
 *
 * @param openLink opens the connection with the given handlers.
 * @param creationTimeoutMs the time for the client to open its streams.
 */
export function receiveSpdyClient(
  openLink: (handlers: LinkHandlers) => Link,
  flags: StreamFlags,
  version: number,
  creationTimeoutMs: number,
): RemoteClient {
  const expected = expectedStreams(flags, version);
  const found = new Map<string, SpdyStream>();
  const streams = Promise.withResolvers<RemoteStreams | undefined>();
  const closed = Promise.withResolvers<void>();
  const onStream = (stream: SpdyStream) => {
    const type = stream.headers.get('streamtype') ?? '';
    if (!expected.includes(type) || found.has(type)) {
      stream.reset(resetStatus.protocolError);
      return;
    }
    found.set(type, stream);
    if (type !== 'stdin' && type !== 'resize') stream.inbound.discard();
    // Clients of version 1 wait for this before they continue.
    else if (version === 1) stream.end();
    if (found.size === expected.length) streams.resolve(toRemoteStreams(found, version));
  };
  const onClose = () => {
    clearTimeout(timer);
    streams.resolve(undefined);
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
  const timer = setTimeout(() => {
    if (found.size < expected.length) connection.close();
  }, creationTimeoutMs);
  const close = () => {
    for (const stream of found.values()) stream.end();
    connection.close();
  };
  return { streams: streams.promise, closed: closed.promise, close };
}

function toRemoteStreams(found: ReadonlyMap<string, SpdyStream>, version: number): RemoteStreams {
  const sinkOf = (stream: SpdyStream): Sink => ({ write: (chunk) => stream.write(chunk), end: () => stream.end() });
  const [stdin, resize, stdout, stderr, error] = ['stdin', 'resize', 'stdout', 'stderr', 'error'].map((type) => found.get(type));
  return {
    ...(stdin && { stdin: stdin.inbound }),
    ...(resize && { resize: resize.inbound }),
    ...(stdout && { stdout: sinkOf(stdout) }),
    ...(stderr && { stderr: sinkOf(stderr) }),
    error: sinkOf(error as SpdyStream),
    version,
  };
}
