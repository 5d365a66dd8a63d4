/**
 * Copies one forwarded connection in both directions with backpressure and half-close. Closes it if it stays idle after a half-close.
 *
 * Pure: it uses only the given stream and socket.
 */
import type { Duplex } from 'node:stream';
import { drained } from './drained.ts';
import type { Inbound } from './inbound.ts';
import type { Sink } from './remote-streams.ts';

/** The client's end of the connection. */
export type RemoteEnd = {
  readonly inbound: Inbound;
  readonly sink: Sink;
  /** Resolves when the client resets the stream or disconnects. */
  readonly broken: Promise<void>;
};

/** The state of one direction: whether data moved since the last check, and whether it is blocked on the client. */
type Direction = { hasMoved: boolean; isWaitingForClient: boolean; isDone: boolean };

/** Idle checks during the grace period. Checks are counted instead of time, because no data can move while the event loop is blocked. */
const idleChecks = 5;

/**
 * Copies until both directions have ended, or one has and the other stays idle for `graceMs`: closing a connection looks the same as
 * half-closing it. Destroys the socket at the end.
 *
 * @returns `ended`, or `broken` if the socket failed: the caller must then reset the client's stream.
 */
export async function relay(remote: RemoteEnd, socket: Duplex, graceMs: number): Promise<'ended' | 'broken'> {
  let isBroken = false;
  socket.on('error', () => {
    isBroken = true;
  });
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  const directions = [newDirection(), newDirection()] as const;
  const toPod = copyToPod(remote.inbound, socket, directions[0]);
  const toClient = copyToClient(socket, remote.sink, directions[1]);
  let idleCount = 0;
  const timer = setInterval(() => {
    idleCount = isIdle(directions) ? idleCount + 1 : 0;
    if (idleCount >= idleChecks) socket.destroy();
  }, graceMs / idleChecks);
  const bothEnded = Promise.all([toPod, toClient]);
  await Promise.race([bothEnded, closed, remote.broken]);
  clearInterval(timer);
  socket.destroy();
  remote.inbound.discard();
  await bothEnded;
  return isBroken ? 'broken' : 'ended';
}

const newDirection = (): Direction => ({ hasMoved: false, isWaitingForClient: false, isDone: false });

/** Whether exactly one direction has ended, and no data moved in either since the last check. */
function isIdle([toPod, toClient]: readonly [Direction, Direction]): boolean {
  const hasMoved = toPod.hasMoved || toClient.hasMoved;
  toPod.hasMoved = false;
  toClient.hasMoved = false;
  return toPod.isDone !== toClient.isDone && !hasMoved && !toClient.isWaitingForClient;
}

async function copyToPod(inbound: Inbound, socket: Duplex, direction: Direction): Promise<void> {
  for (let chunk = await inbound.next(); chunk !== null; chunk = await inbound.next()) {
    direction.hasMoved = true;
    if (socket.destroyed) break;
    if (!socket.write(chunk)) await drained(socket);
  }
  direction.hasMoved = true;
  direction.isDone = true;
  if (!socket.destroyed && !inbound.isDiscarding) socket.end();
}

async function copyToClient(socket: Duplex, sink: Sink, direction: Direction): Promise<void> {
  try {
    // Do not destroy the socket at the end of its output: the other direction may continue.
    for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      direction.isWaitingForClient = true;
      const isOpen = await sink.write(chunk);
      direction.isWaitingForClient = false;
      direction.hasMoved = true;
      if (!isOpen) break;
    }
  } catch {
    // The socket failed or was closed; relay() handles that.
  }
  direction.hasMoved = true;
  direction.isDone = true;
  if (socket.readableEnded) sink.end();
}
