/**
 * Port-forward over plain WebSocket: the ports are known before the connection; each has two channels and one connection.
 *
 *   port i of the list: channel 2i carries data in both directions, channel 2i+1 errors to the client.
 *   The first message on each channel is the port as two bytes, little-endian.
 *
 * Pure: it uses only the given link and backend.
 */
import { failedTo, invalidArgument, reasonOf } from '../lib/errors.ts';
import { Inbound } from './inbound.ts';
import type { Link, LinkHandlers } from './link.ts';
import type { ForwardDeps } from './port-forward.ts';
import { relay } from './relay.ts';
import { ChannelParser, type WebSocketProtocol } from './remote-command.ts';
import { sendOn } from './remote-websocket.ts';
import { type MessagePart, WebSocketConnection } from './websocket-connection.ts';

/** Channel numbers are one byte; 255 has a special meaning in other protocols. */
const portsMax = 100;

const heldBytesMax = 262_144;

/** Checks the ports of a request. @throws {BerthError} INVALID_ARGUMENT for an invalid port, or too many. */
export function checkPorts(ports: readonly number[]): void {
  if (ports.length > portsMax) throw invalidArgument(`port-forward: ${ports.length} ports exceed the limit of ${portsMax}`);
  const invalid = ports.find((port) => !Number.isInteger(port) || port < 1 || port > 65_535);
  if (invalid !== undefined) throw invalidArgument(`port-forward: invalid port ${invalid}`);
}

/** Returns the ports in a query. @throws {BerthError} INVALID_ARGUMENT for a missing or invalid port, or too many. */
export function portsOfQuery(query: URLSearchParams): readonly number[] {
  // Anything else becomes 0, which is invalid.
  const ports = query.getAll('port').flatMap((text) => text.split(',').map((word) => (/^\d{1,5}$/.test(word) ? Number(word) : 0)));
  if (ports.length === 0) throw invalidArgument('port-forward over WebSocket: neither PortForwardRequest.port nor the query names a port');
  checkPorts(ports);
  return ports;
}

/** Serves a client until it disconnects or all its connections have ended. */
export function forwardOverWebSocket(
  deps: ForwardDeps,
  sandboxId: string,
  ports: readonly number[],
  protocol: WebSocketProtocol,
  openLink: (handlers: LinkHandlers) => Link,
): { close: () => void; closed: Promise<void> } {
  const parser = new ChannelParser(protocol.isBase64);
  const closed = Promise.withResolvers<void>();
  const applyPause = () => connection.setPaused(inbounds.reduce((sum, { heldBytes }) => sum + heldBytes, 0) > heldBytesMax);
  const inbounds = ports.map(() => new Inbound(applyPause));
  const onPart = (part: MessagePart) => {
    for (const { channel, bytes } of parser.parse(part)) if (channel % 2 === 0) inbounds[channel / 2]?.push(bytes);
    applyPause();
  };
  const onClose = () => {
    for (const inbound of inbounds) {
      inbound.end();
      inbound.discard();
    }
    closed.resolve();
  };
  const connection: WebSocketConnection = new WebSocketConnection(
    openLink({
      onBytes: (chunk) => connection.receive(chunk),
      onClose: () => connection.lost(),
      onHeartbeat: () => connection.heartbeat(),
    }),
    { onPart, onClose },
  );
  const forwards = ports.map(async (port, index) => {
    const write = (offset: number, bytes: Buffer) => sendOn(connection, index * 2 + offset, bytes, protocol.isBase64);
    const inbound = inbounds[index];
    if (inbound) await forward(deps, sandboxId, port, { inbound, broken: closed.promise, write });
  });
  void Promise.all(forwards).then(() => connection.close());
  return { close: () => connection.close(), closed: closed.promise };
}

type PortChannels = { readonly inbound: Inbound; readonly broken: Promise<void>; readonly write: (offset: 0 | 1, bytes: Buffer) => Promise<boolean> };

async function forward(deps: ForwardDeps, sandboxId: string, port: number, channels: PortChannels): Promise<void> {
  const portBytes = Buffer.from([port & 0xff, port >> 8]);
  await channels.write(0, portBytes);
  await channels.write(1, portBytes);
  const attempt = `port-forward to port ${port} of sandbox ${sandboxId}`;
  try {
    const socket = await deps.backend.connect(sandboxId, port);
    const sink = { write: (chunk: Buffer) => channels.write(0, chunk), end: () => {} };
    const end = await relay({ inbound: channels.inbound, sink, broken: channels.broken }, socket, deps.halfCloseGraceMs);
    if (end === 'broken') await channels.write(1, Buffer.from(`${attempt}: connection lost`));
  } catch (error) {
    channels.inbound.discard();
    await channels.write(1, Buffer.from(reasonOf(failedTo(attempt, error))));
  }
}
