/**
 * The streams of a remote command over WebSocket: one message channel each. Pure: it uses only the given link.
 */
import type { StreamFlags } from './backend.ts';
import { Inbound } from './inbound.ts';
import type { Link, LinkHandlers } from './link.ts';
import { ChannelParser, channel, encodeChannelMessage, type WebSocketProtocol } from './remote-command.ts';
import type { RemoteClient, RemoteStreams, Sink } from './remote-streams.ts';
import { type MessagePart, WebSocketConnection } from './websocket-connection.ts';

/** The connection is not read while its channels hold more than this. */
const heldBytesMax = 262_144;

const messageBytesMax = 65_536;

/** Accepts a client over WebSocket. All channels exist from the start. @param openLink opens the connection with the given handlers. */
export function receiveWebSocketClient(openLink: (handlers: LinkHandlers) => Link, flags: StreamFlags, protocol: WebSocketProtocol): RemoteClient {
  const closed = Promise.withResolvers<void>();
  const channels = new Map<number, Inbound>();
  const onClose = () => {
    for (const inbound of channels.values()) {
      inbound.end();
      inbound.discard();
    }
    closed.resolve();
  };
  const parser = new ChannelParser(protocol.isBase64);
  const applyPause = () => connection.setPaused([...channels.values()].reduce((sum, { heldBytes }) => sum + heldBytes, 0) > heldBytesMax);
  const onPart = (part: MessagePart) => {
    for (const { channel: number, bytes } of parser.parse(part)) {
      if (number === channel.close && protocol.version >= 5) channels.get(bytes[0] ?? -1)?.end();
      else channels.get(number)?.push(bytes);
    }
    applyPause();
  };
  const connection: WebSocketConnection = new WebSocketConnection(
    openLink({
      onBytes: (chunk) => connection.receive(chunk),
      onClose: () => connection.lost(),
      onHeartbeat: () => connection.heartbeat(),
    }),
    { onPart, onClose },
  );
  if (flags.stdin) channels.set(channel.stdin, new Inbound(applyPause));
  if (flags.tty) channels.set(channel.resize, new Inbound(applyPause));
  const sinkOf = (number: number): Sink => ({ write: (chunk) => sendOn(connection, number, chunk, protocol.isBase64), end: () => {} });
  // Old browser clients take the first message as confirmation of the connection.
  const first = flags.stdout ? channel.stdout : flags.stderr ? channel.stderr : channel.error;
  void connection.send(encodeChannelMessage(first, Buffer.alloc(0), protocol.isBase64), protocol.isBase64);
  const streams = Promise.resolve(toRemoteStreams(channels, flags, sinkOf, protocol.version));
  return { streams, closed: closed.promise, close: () => connection.close() };
}

function toRemoteStreams(
  channels: ReadonlyMap<number, Inbound>,
  flags: StreamFlags,
  sinkOf: (number: number) => Sink,
  version: number,
): RemoteStreams {
  const stdin = channels.get(channel.stdin);
  const resize = channels.get(channel.resize);
  return {
    ...(stdin && { stdin }),
    ...(resize && { resize }),
    ...(flags.stdout && { stdout: sinkOf(channel.stdout) }),
    ...(flags.stderr && { stderr: sinkOf(channel.stderr) }),
    error: sinkOf(channel.error),
    version,
  };
}

/** Sends data in messages of bounded size, so that channels can interleave. @returns false if the connection is closed. */
export async function sendOn(connection: WebSocketConnection, number: number, chunk: Buffer, isBase64: boolean): Promise<boolean> {
  for (let at = 0; at < chunk.length; at += messageBytesMax) {
    const parts = encodeChannelMessage(number, chunk.subarray(at, at + messageBytesMax), isBase64);
    if (!(await connection.send(parts, isBase64))) return false;
  }
  return true;
}
