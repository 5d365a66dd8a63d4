/**
 * Unpacking as the daemon's thread sees it: layers, archives and trees go to workers, results come out, memory stays bounded.
 *
 * Nothing here touches a layer's bytes but to copy them.
 */
import { availableParallelism } from 'node:os';
import type { Readable } from 'node:stream';
import { BerthError, failedTo, internal, reasonOf } from '../../lib/errors.ts';
import { freeBuffer } from '../../sys/process/heap.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { DevicePolicy } from '../layer/layer-writer.ts';
import { assemble } from './assembling.ts';
import type { SpooledMember, SpoolJob } from './spool-stream.ts';
import type { FromWorker, LayerJob, UnpackedLayer } from './unpack-protocol.ts';
import { createLimit, createWorkerPool, type Job, type JobMessage, type Limit } from './worker-pool.ts';

export type UnpackerDeps = {
  /** The worker's program: src/images/unpack/unpack-worker.ts, or what it was bundled to. */
  readonly workerFile: URL;
  readonly workersMax: number;
  /** By default kept, as other runtimes do: a container may open only what its devices cgroup has. */
  readonly devices?: DevicePolicy;
  /** Changes the built-in times, for tests. */
  readonly idleMs?: number;
  readonly slowMs?: number;
};

export type Unpacker = {
  /**
   * Writes one layer into the job's directory, and checks its digests. On failure the directory is left as it is then.
   *
   * @param open called when a worker is free: nothing is buffered while a layer waits. Buffers that it gives are used up: see freeBuffer().
   * @param signal the same for all layers of one image: they take turns, so that one image cannot hold up all others.
   * @param onBytes told how many bytes have come, each time that some have.
   * @throws {BerthError} the reason names the layer; the signal's reason when that was aborted.
   */
  readonly unpack: (job: LayerJob, open: () => Promise<Readable>, signal: AbortSignal, onBytes?: (count: number) => void) => Promise<UnpackedLayer>;
  /**
   * Takes an image's archive apart into one file and a list of where each member's content is. Buffers are used up, as with layers.
   *
   * @throws {BerthError} the reason begins with `archive`; the signal's reason when that was aborted.
   */
  readonly spool: (job: SpoolJob, bytes: Readable, signal: AbortSignal, onBytes?: (count: number) => void) => Promise<readonly SpooledMember[]>;
  /** A layer's archive, put together again. As assemble(). */
  readonly assemble: (layer: AssembleJob, signal: AbortSignal) => AsyncGenerator<Buffer, undefined>;
  /** Removes a tree. Succeeds when it is not there. */
  readonly remove: (path: string) => Promise<void>;
  /** All that was written to the file system of `path` is on disk afterwards. */
  readonly sync: (path: string) => Promise<void>;
  /** Ends all workers. What is under way fails. */
  readonly close: () => Promise<void>;
};

/** A pod's images come one after the other, and a worker costs some 40 ms of CPU. */
const idleMsDefault = 10_000;
/** A sender of less than this in so long, while the worker has nothing to do, is slow. */
const slowMsDefault = 1000;
const slowBytes = 64 << 10;

export function createUnpacker(deps: UnpackerDeps): Unpacker {
  // More workers than CPUs only take each other's time.
  const layersMax = Math.min(deps.workersMax, Math.max(2, availableParallelism()));
  const pool = createWorkerPool({ workerFile: deps.workerFile, layersMax, idleMs: deps.idleMs ?? idleMsDefault });

  const slowMs = deps.slowMs ?? slowMsDefault;
  const turns = new WeakMap<AbortSignal, Limit>();
  const turnsOf = (signal: AbortSignal): Limit => {
    const limit = turns.get(signal) ?? createLimit(layersMax);
    turns.set(signal, limit);
    return limit;
  };

  const errand = (message: JobMessage): Promise<void> =>
    pool.runErrand(
      (job) =>
        new Promise((resolve, reject) => {
          job.listen((answer) => (answer.kind === 'failed' ? reject(new BerthError(answer.code, answer.message)) : resolve()));
          job.post(message);
        }),
    );

  return {
    unpack: (layer, open, signal, onBytes) =>
      turnsOf(signal)(() =>
        pool.runLayer(async (job) => {
          const result = await feedJob(job, { kind: 'unpack', job: layer, devices: deps.devices ?? 'keep' }, { open, signal, onBytes, slowMs });
          if (result.kind !== 'unpacked') throw internal('the worker did something else');
          return result.layer;
        }),
      ).catch((error: unknown) => {
        throw layerError(layer, error, signal);
      }),
    spool: (spool, bytes, signal, onBytes) =>
      pool
        .runArchive(async (job) => {
          const result = await feedJob(job, { kind: 'spool', job: spool }, { open: async () => bytes, signal, onBytes, slowMs });
          if (result.kind !== 'spooled') throw internal('the worker did something else');
          return result.members;
        })
        .catch((error: unknown) => {
          if (signal.aborted && signal.reason instanceof BerthError) throw signal.reason;
          throw failedTo('archive', error);
        }),
    assemble: (layer, signal) => assemble(pool, layer, signal),
    remove: (path) => errand({ kind: 'remove', path }),
    sync: (path) => errand({ kind: 'sync', path }),
    close: pool.close,
  };
}

function layerError(layer: LayerJob, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted && signal.reason instanceof BerthError) return signal.reason;
  if (!(error instanceof BerthError)) return internal(`layer ${layer.digest}: ${reasonOf(error)}`, error);
  // A registry's errors have a fixed beginning that callers look for, and name the blob themselves.
  return error.message.includes(`blob ${layer.digest}`) || error.code === 'UNAVAILABLE'
    ? error
    : new BerthError(error.code, `layer ${layer.digest}: ${error.message}`, error);
}

type FedJob = { [Kind in 'unpack' | 'spool']: Omit<Extract<JobMessage, { kind: Kind }>, 'pieces'> }['unpack' | 'spool'];
type Result = Extract<FromWorker, { kind: 'unpacked' | 'spooled' }>;

type Feed = {
  readonly open: () => Promise<Readable>;
  readonly signal: AbortSignal;
  readonly onBytes: ((count: number) => void) | undefined;
  readonly slowMs: number;
};

/** Feeds one layer or archive to a worker, and waits until the worker has nothing of it any more. */
async function feedJob(job: Job, begin: FedJob, { open, signal, onBytes, slowMs }: Feed): Promise<Result> {
  signal.throwIfAborted();
  const lane = openLane(job);
  let newBytes = 0;
  const look = setInterval(() => {
    job.lend(newBytes < slowBytes && lane.isIdle());
    newBytes = 0;
  }, slowMs);
  const count = (bytes: number): void => {
    newBytes += bytes;
    onBytes?.(bytes);
  };
  job.post({ ...begin, pieces: lane.pieces });
  let source: Readable | undefined;
  const abort = (): void => void source?.destroy(signal.reason instanceof Error ? signal.reason : undefined);
  signal.addEventListener('abort', abort);
  try {
    source = await open();
    if (signal.aborted) abort();
    // A worker that fails early ends the download too.
    const broken = source;
    lane.result.catch(() => broken.destroy());
    await feed(lane, source, count);
    clearInterval(look);
    job.lend(false);
    job.post({ kind: 'end' });
    return await lane.result;
  } catch (error) {
    source?.destroy();
    job.post({ kind: 'cancel' });
    // The worker's reason comes first: it is why the source was destroyed. A cancelled job has none of its own.
    const reason = await lane.result.then(
      () => error,
      (failure: unknown) => (failure instanceof BerthError && failure.code === 'CANCELLED' ? error : failure),
    );
    throw reason;
  } finally {
    clearInterval(look);
    signal.removeEventListener('abort', abort);
  }
}

type Lane = {
  readonly pieces: readonly SharedArrayBuffer[];
  /** An empty piece, as soon as there is one. Rejects when the worker has failed. */
  readonly piece: () => Promise<Piece>;
  readonly send: (piece: Piece, length: number) => void;
  /** True when the worker has nothing to do. */
  readonly isIdle: () => boolean;
  readonly result: Promise<Result>;
};

type Piece = { readonly index: number; readonly bytes: Buffer };

function openLane(job: Job): Lane {
  const pieces = job.pieces();
  const buffers = pieces.map((memory, index): Piece => ({ index, bytes: Buffer.from(memory) }));
  const free = [...buffers];
  let wake: (() => void) | undefined;
  const { promise: result, resolve, reject } = Promise.withResolvers<Result>();
  let failure: BerthError | undefined;
  result.catch(() => undefined);
  job.listen((message) => {
    const returned = message.kind === 'returned' ? buffers[message.piece] : undefined;
    if (returned !== undefined) free.push(returned);
    if (message.kind === 'unpacked' || message.kind === 'spooled') resolve(message);
    if (message.kind === 'failed') {
      failure = new BerthError(message.code, message.message);
      reject(failure);
    }
    wake?.();
  });
  const piece = async (): Promise<Piece> => {
    for (;;) {
      if (failure !== undefined) throw failure;
      const next = free.pop();
      if (next !== undefined) return next;
      await new Promise<void>((ready) => {
        wake = ready;
      });
    }
  };
  const send = ({ index }: Piece, length: number): void => job.post({ kind: 'bytes', piece: index, length });
  return { pieces, piece, send, isIdle: () => free.length >= pieces.length - 1, result };
}

/** Copies the source into pieces; a worker that waits gets what there is. */
async function feed(lane: Lane, source: Readable, onBytes: (count: number) => void): Promise<void> {
  let piece = await lane.piece();
  let fill = 0;
  for await (const chunk of source as AsyncIterable<Buffer<ArrayBuffer>>) {
    onBytes(chunk.length);
    for (let at = 0; at < chunk.length; ) {
      const copied = chunk.copy(piece.bytes, fill, at);
      at += copied;
      fill += copied;
      if (fill < piece.bytes.length && !lane.isIdle()) continue;
      lane.send(piece, fill);
      piece = await lane.piece();
      fill = 0;
    }
    freeBuffer(chunk);
  }
  if (fill > 0) lane.send(piece, fill);
}
