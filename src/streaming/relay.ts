/**
 * One forwarded connection: bytes both ways at the pace of the slower side, half-close kept, and an end when nothing moves after it.
 */
import type { Duplex } from 'node:stream';
import { drained } from './drained.ts';
import type { Inbound } from './inbound.ts';
import type { Sink } from './remote-streams.ts';

/** The client's side of it. */
export type RemoteEnd = {
  readonly inbound: Inbound;
  readonly sink: Sink;
  /** The client has reset the stream or is gone. */
  readonly broken: Promise<void>;
};

/** A direction: whether it moved since it was looked at, and whether it waits for the client, which may take its time. */
type Direction = { hasMoved: boolean; isWaitingForClient: boolean; isDone: boolean };

/** Looks during the grace. Silence is counted in looks, not in time: when the process itself was held up, nothing could move. */
const looks = 5;

/**
 * Copies until both directions have ended, or one has and the other stays silent for `graceMs`: a client that closes its connection looks
 * like one that half-closes it. The socket is gone afterwards.
 *
 * @returns `ended`, or `broken` when the socket failed: a reset that the client is to see as one.
 */
export async function relay(remote: RemoteEnd, socket: Duplex, graceMs: number): Promise<'ended' | 'broken'> {
  let isBroken = false;
  socket.on('error', () => {
    isBroken = true;
  });
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  const directions = [begin(), begin()] as const;
  const toPod = copyToPod(remote.inbound, socket, directions[0]);
  const toClient = copyToClient(socket, remote.sink, directions[1]);
  let silentLooks = 0;
  const timer = setInterval(() => {
    silentLooks = isSilent(directions) ? silentLooks + 1 : 0;
    if (silentLooks >= looks) socket.destroy();
  }, graceMs / looks);
  const bothEnded = Promise.all([toPod, toClient]);
  await Promise.race([bothEnded, closed, remote.broken]);
  clearInterval(timer);
  socket.destroy();
  remote.inbound.discard();
  await bothEnded;
  return isBroken ? 'broken' : 'ended';
}

const begin = (): Direction => ({ hasMoved: false, isWaitingForClient: false, isDone: false });

/** One direction has ended, and nothing moved in either since the last look. */
function isSilent([toPod, toClient]: readonly [Direction, Direction]): boolean {
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
    // Not destroyed at its end: the other direction may go on.
    for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      direction.isWaitingForClient = true;
      const isTaken = await sink.write(chunk);
      direction.isWaitingForClient = false;
      direction.hasMoved = true;
      if (!isTaken) break;
    }
  } catch {
    // The socket failed or was closed; relay() knows.
  }
  direction.hasMoved = true;
  direction.isDone = true;
  if (socket.readableEnded) sink.end();
}
