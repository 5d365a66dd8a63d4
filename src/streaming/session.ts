/**
 * One exec or attach: bytes both ways at the pace of the slower side, window sizes, and the end told after the last output.
 *
 * Knows neither how the client is connected nor what runs.
 */
import type { Readable, Writable } from 'node:stream';
import { reasonOf } from '../lib/errors.ts';
import type { ContainerStreams } from './backend.ts';
import { drained } from './drained.ts';
import type { Inbound } from './inbound.ts';
import { encodeStatus, type Outcome, ResizeParser } from './remote-command.ts';
import type { RemoteClient, RemoteStreams, Sink } from './remote-streams.ts';

export type SessionDeps = {
  /**
   * How long an output may stay silent and open after the process has ended: something it left behind may hold it open for ever,
   * and what the process wrote itself is there at once.
   */
  readonly outputGraceMs: number;
};

/** An output on its way. */
type Pump = {
  readonly source: Readable;
  readonly done: Promise<void>;
  /** Nothing came since it was asked last, and nothing waits for the client. */
  readonly isSilent: () => boolean;
};

const looks = 5;

/** Serves a client until the process or the client is gone. Never rejects. @param start called when the client's streams are there. */
export async function runSession(deps: SessionDeps, client: RemoteClient, start: () => Promise<ContainerStreams>): Promise<void> {
  const remote = await client.streams;
  if (remote === undefined) return client.close();
  const started = await start().then(
    (container) => ({ container }),
    (error: unknown) => ({ failure: reasonOf(error) }),
  );
  const outcome = 'failure' in started ? started : await converse(deps, client, remote, started.container);
  if (outcome === undefined) return;
  const status = encodeStatus(outcome, remote.version);
  if (status.length > 0) await remote.error.write(status);
  remote.error.end();
  client.close();
}

/** @returns undefined when the client is gone. */
async function converse(deps: SessionDeps, client: RemoteClient, remote: RemoteStreams, container: ContainerStreams): Promise<Outcome | undefined> {
  const streams = [container.stdin, container.stdout, container.stderr];
  // What breaks after everybody has stopped looking must not end the daemon.
  for (const stream of streams) stream?.on('error', () => {});
  const pumps = startPumps(remote, container);
  const ended: Promise<Outcome> = container.exited.catch((error: unknown) => ({ failure: reasonOf(error) }));
  const finished = ended.then(async (outcome) => {
    await flushed(pumps, deps.outputGraceMs);
    return outcome;
  });
  const gone = client.closed.then(() => undefined);
  const outcome = await Promise.race([finished, gone]);
  if (outcome === undefined) container.abandon();
  for (const stream of streams) stream?.destroy();
  remote.stdin?.discard();
  remote.resize?.discard();
  return outcome;
}

function startPumps(remote: RemoteStreams, container: ContainerStreams): Pump[] {
  if (remote.stdin && container.stdin) void pumpIn(remote.stdin, container.stdin);
  else remote.stdin?.discard();
  if (remote.resize) void pumpSizes(remote.resize, container);
  const outputs = [
    { source: container.stdout, sink: remote.stdout },
    { source: container.stderr, sink: remote.stderr },
  ];
  return outputs.flatMap(({ source, sink }) => {
    if (source && sink) return [pumpOut(source, sink)];
    sink?.end();
    // An output that nobody asked for must not stop its writer.
    source?.resume();
    return [];
  });
}

async function pumpIn(inbound: Inbound, stdin: Writable): Promise<void> {
  // The process may close its end at any time; what still comes is thrown away then.
  stdin.on('error', () => inbound.discard());
  stdin.on('close', () => inbound.discard());
  for (let chunk = await inbound.next(); chunk !== null; chunk = await inbound.next()) {
    if (stdin.destroyed) return inbound.discard();
    if (!stdin.write(chunk)) await drained(stdin);
  }
  // After a discard the end of input is not known: the client may only be gone.
  if (inbound.isEnded && !inbound.isDiscarding && !stdin.destroyed) stdin.end();
}

async function pumpSizes(inbound: Inbound, container: ContainerStreams): Promise<void> {
  const parser = new ResizeParser();
  for (let chunk = await inbound.next(); chunk !== null; chunk = await inbound.next()) {
    for (const { columns, rows } of parser.parse(chunk)) container.resize(columns, rows);
  }
}

function pumpOut(source: Readable, sink: Sink): Pump {
  let hasMoved = true;
  let isWaitingForClient = false;
  const run = async () => {
    for await (const chunk of source) {
      isWaitingForClient = true;
      const isTaken = await sink.write(chunk);
      isWaitingForClient = false;
      hasMoved = true;
      if (!isTaken) break;
    }
  };
  // An output that breaks ends; the status tells how the process fared.
  const done = run()
    .catch(() => {})
    .then(() => sink.end());
  const isSilent = () => {
    const wasSilent = !hasMoved && !isWaitingForClient;
    hasMoved = false;
    return wasSilent;
  };
  return { source, done, isSilent };
}

/** Waits for the outputs to end, or to be silent too long. Silence is counted in looks, as relay.ts does. */
async function flushed(pumps: readonly Pump[], outputGraceMs: number): Promise<void> {
  let silentLooks = 0;
  const timer = setInterval(() => {
    const areSilent = pumps.map((pump) => pump.isSilent());
    silentLooks = areSilent.every(Boolean) ? silentLooks + 1 : 0;
    if (silentLooks >= looks) for (const { source } of pumps) source.destroy();
  }, outputGraceMs / looks);
  await Promise.all(pumps.map(({ done }) => done));
  clearInterval(timer);
}
