/**
 * Runs one exec or attach session: copies the streams with backpressure, forwards terminal sizes, and reports the exit status after the last output.
 *
 * Independent of the client's protocol and of the process. Pure: it uses only the given streams.
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
   * How long an output may stay open and idle after the process has exited. A background process may hold it open forever; the output
   * of the process itself is available at once.
   */
  readonly outputGraceMs: number;
};

/** The copying of one output. */
type Pump = {
  readonly source: Readable;
  readonly done: Promise<void>;
  /** Whether no data came since the last check, and none is waiting for the client. */
  readonly isIdle: () => boolean;
};

/** Idle checks during the grace period: see relay.ts. */
const idleChecks = 5;

/** Serves a client until the process exits or the client disconnects. Never rejects. @param start called when the client has opened its streams. */
export async function runSession(deps: SessionDeps, client: RemoteClient, start: () => Promise<ContainerStreams>): Promise<void> {
  const remote = await client.streams;
  if (remote === undefined) return client.close();
  const started = await start().then(
    (container) => ({ container }),
    (error: unknown) => ({ failure: reasonOf(error) }),
  );
  const outcome = 'failure' in started ? started : await runStreams(deps, client, remote, started.container);
  if (outcome === undefined) return;
  const status = encodeStatus(outcome, remote.version);
  if (status.length > 0) await remote.error.write(status);
  remote.error.end();
  client.close();
}

/** @returns undefined if the client disconnected. */
async function runStreams(deps: SessionDeps, client: RemoteClient, remote: RemoteStreams, container: ContainerStreams): Promise<Outcome | undefined> {
  const streams = [container.stdin, container.stdout, container.stderr];
  // A late error, without any other listener, must not crash the daemon.
  for (const stream of streams) stream?.on('error', () => {});
  const pumps = startPumps(remote, container);
  const ended: Promise<Outcome> = container.exited.catch((error: unknown) => ({ failure: reasonOf(error) }));
  const finished = ended.then(async (outcome) => {
    await outputsEnded(pumps, deps.outputGraceMs);
    return outcome;
  });
  const disconnected = client.closed.then(() => undefined);
  const outcome = await Promise.race([finished, disconnected]);
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
    // An output that was not requested must not block the process.
    source?.resume();
    return [];
  });
}

async function pumpIn(inbound: Inbound, stdin: Writable): Promise<void> {
  // The process may close its end at any time; further input is dropped then.
  stdin.on('error', () => inbound.discard());
  stdin.on('close', () => inbound.discard());
  for (let chunk = await inbound.next(); chunk !== null; chunk = await inbound.next()) {
    if (stdin.destroyed) return inbound.discard();
    if (!stdin.write(chunk)) await drained(stdin);
  }
  // After discard() this is not an end of input: the client may have disconnected.
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
      const isOpen = await sink.write(chunk);
      isWaitingForClient = false;
      hasMoved = true;
      if (!isOpen) break;
    }
  };
  // A failed output counts as ended; the exit status reports the result.
  const done = run()
    .catch(() => {})
    .then(() => sink.end());
  const isIdle = () => {
    const wasIdle = !hasMoved && !isWaitingForClient;
    hasMoved = false;
    return wasIdle;
  };
  return { source, done, isIdle };
}

/** Waits until the outputs have ended or been idle for the grace period. */
async function outputsEnded(pumps: readonly Pump[], outputGraceMs: number): Promise<void> {
  let idleCount = 0;
  const timer = setInterval(() => {
    const areIdle = pumps.map((pump) => pump.isIdle());
    idleCount = areIdle.every(Boolean) ? idleCount + 1 : 0;
    if (idleCount >= idleChecks) for (const { source } of pumps) source.destroy();
  }, outputGraceMs / idleChecks);
  await Promise.all(pumps.map(({ done }) => done));
  clearInterval(timer);
}
