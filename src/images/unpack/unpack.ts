/**
 * Runs unpacking jobs in workers: layers, archives, removal of trees. The daemon's side; memory is bounded.
 *
 * The daemon's thread only copies the bytes of a layer.
 */
import { availableParallelism } from 'node:os';
import type { Readable } from 'node:stream';
import { BerthError, failedTo, internal, reasonOf } from '../../lib/errors.ts';
import { freeBuffer } from '../../sys/process/heap.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { ParentsJob } from '../layer/implied-directories.ts';
import type { DevicePolicy } from '../layer/layer-writer.ts';
import { assemble } from './assembling.ts';
import type { SpooledMember, SpoolJob } from './spool-stream.ts';
import type { FromWorker, LayerJob, UnpackedLayer } from './unpack-protocol.ts';
import { createLimit, type Job, type JobMessage, type Limit, WorkerPool } from './worker-pool.ts';

export type UnpackerDeps = {
  /** The worker's program: src/images/unpack/unpack-worker.ts or its bundle. */
  readonly workerFile: URL;
  readonly workersMax: number;
  /** Device nodes in layers. By default kept, as by other runtimes: a container can open only the devices that its cgroup allows. */
  readonly devices?: DevicePolicy;
  /** Replace the built-in times, for tests. */
  readonly idleMs?: number;
  readonly slowMs?: number;
};

export type Unpacker = {
  /**
   * Unpacks one layer into the job's directory and checks its digests. A failure leaves the directory as it is.
   *
   * @param open called when a worker is free: nothing is buffered while a layer waits. Its buffers are freed after use: see freeBuffer().
   * @param signal one signal for all layers of an image: only some of them wait for a worker at a time, so that one image cannot block all others.
   * @param onBytes called with the number of bytes of each received chunk.
   * @throws {BerthError} that names the layer; the signal's reason when it is aborted.
   */
  readonly unpack: (job: LayerJob, open: () => Promise<Readable>, signal: AbortSignal, onBytes?: (count: number) => void) => Promise<UnpackedLayer>;
  /**
   * Spools an image archive: writes the content of all members to one file and returns their positions. Buffers are freed, as with layers.
   *
   * @throws {BerthError} that starts with `archive`; the signal's reason when it is aborted.
   */
  readonly spool: (job: SpoolJob, bytes: Readable, signal: AbortSignal, onBytes?: (count: number) => void) => Promise<readonly SpooledMember[]>;
  /** Reassembles the archive of a layer. See assemble(). */
  readonly assemble: (layer: AssembleJob, signal: AbortSignal) => AsyncGenerator<Buffer, undefined>;
  /** Removes a tree. Succeeds when it does not exist. */
  readonly remove: (path: string) => Promise<void>;
  /** Syncs the file system of `path` to disk. */
  readonly sync: (path: string) => Promise<void>;
  /** Gives directories without an entry the attributes of lower layers: implied-directories.ts. */
  readonly restoreParents: (job: ParentsJob) => Promise<void>;
  /** Ends all workers. Running jobs fail. */
  readonly close: () => Promise<void>;
};

/** Idle workers are kept for the next image of a pod: starting one costs some 40 ms of CPU. */
const idleMsDefault = 10_000;
/** A sender is slow if less than `slowBytes` arrive in this time while the worker is idle. */
const slowMsDefault = 1000;
const slowBytes = 64 << 10;

export function createUnpacker(deps: UnpackerDeps): Unpacker {
  // More workers than CPUs do not help.
  const layersMax = Math.min(deps.workersMax, Math.max(2, availableParallelism()));
  const pool = new WorkerPool({ workerFile: deps.workerFile, layersMax, idleMs: deps.idleMs ?? idleMsDefault });

  const slowMs = deps.slowMs ?? slowMsDefault;
  const limits = new WeakMap<AbortSignal, Limit>();
  const limitOf = (signal: AbortSignal): Limit => {
    const limit = limits.get(signal) ?? createLimit(layersMax);
    limits.set(signal, limit);
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
      limitOf(signal)(() =>
        pool.runLayer(async (job) => {
          const result = await feedJob(job, { kind: 'unpack', job: layer, devices: deps.devices ?? 'keep' }, { open, signal, onBytes, slowMs });
          if (result.kind !== 'unpacked') throw internal('unexpected reply from the unpack worker');
          return result.layer;
        }),
      ).catch((error: unknown) => {
        throw layerError(layer, error, signal);
      }),
    spool: (spool, bytes, signal, onBytes) =>
      pool
        .runArchive(async (job) => {
          const result = await feedJob(job, { kind: 'spool', job: spool }, { open: async () => bytes, signal, onBytes, slowMs });
          if (result.kind !== 'spooled') throw internal('unexpected reply from the unpack worker');
          return result.members;
        })
        .catch((error: unknown) => {
          if (signal.aborted && signal.reason instanceof BerthError) throw signal.reason;
          throw failedTo('archive', error);
        }),
    assemble: (layer, signal) => assemble(pool, layer, signal),
    remove: (path) => errand({ kind: 'remove', path }),
    sync: (path) => errand({ kind: 'sync', path }),
    restoreParents: (job) => errand({ kind: 'parents', job }),
    close: () => pool.close(),
  };
}

function layerError(layer: LayerJob, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted && signal.reason instanceof BerthError) return signal.reason;
  if (!(error instanceof BerthError)) return internal(`layer ${layer.digest}: ${reasonOf(error)}`, error);
  // Errors of a registry name the blob themselves, and some have a prefix that callers look for.
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

/** Sends one layer or archive to a worker, and waits until the worker has finished with it. */
async function feedJob(job: Job, begin: FedJob, { open, signal, onBytes, slowMs }: Feed): Promise<Result> {
  signal.throwIfAborted();
  const channel = openChannel(job);
  let newBytes = 0;
  const speedCheck = setInterval(() => {
    job.lend(newBytes < slowBytes && channel.isIdle());
    newBytes = 0;
  }, slowMs);
  const count = (bytes: number): void => {
    newBytes += bytes;
    onBytes?.(bytes);
  };
  job.post({ ...begin, pieces: channel.pieces });
  let source: Readable | undefined;
  const abort = (): void => void source?.destroy(signal.reason instanceof Error ? signal.reason : undefined);
  signal.addEventListener('abort', abort);
  try {
    source = await open();
    if (signal.aborted) abort();
    // If the worker fails early, stop the download.
    const opened = source;
    channel.result.catch(() => opened.destroy());
    await feed(channel, source, count);
    clearInterval(speedCheck);
    job.lend(false);
    job.post({ kind: 'end' });
    return await channel.result;
  } catch (error) {
    source?.destroy();
    job.post({ kind: 'cancel' });
    // Prefer the worker's error: the source was destroyed because of it. A canceled job has no error of its own.
    const reason = await channel.result.then(
      () => error,
      (failure: unknown) => (failure instanceof BerthError && failure.code === 'CANCELLED' ? error : failure),
    );
    throw reason;
  } finally {
    clearInterval(speedCheck);
    signal.removeEventListener('abort', abort);
  }
}

type Channel = {
  readonly pieces: readonly SharedArrayBuffer[];
  /** Waits for an empty piece. Rejects when the worker has failed. */
  readonly piece: () => Promise<Piece>;
  readonly send: (piece: Piece, length: number) => void;
  /** Reports whether the worker has processed all pieces. */
  readonly isIdle: () => boolean;
  readonly result: Promise<Result>;
};

type Piece = { readonly index: number; readonly bytes: Buffer };

function openChannel(job: Job): Channel {
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

/** Copies the source into pieces. Sends a partly filled piece if the worker is idle. */
async function feed(channel: Channel, source: Readable, onBytes: (count: number) => void): Promise<void> {
  let piece = await channel.piece();
  let fill = 0;
  for await (const chunk of source as AsyncIterable<Buffer<ArrayBuffer>>) {
    onBytes(chunk.length);
    for (let at = 0; at < chunk.length; ) {
      const copied = chunk.copy(piece.bytes, fill, at);
      at += copied;
      fill += copied;
      if (fill < piece.bytes.length && !channel.isIdle()) continue;
      channel.send(piece, fill);
      piece = await channel.piece();
      fill = 0;
    }
    freeBuffer(chunk);
  }
  if (fill > 0) channel.send(piece, fill);
}
