/**
 * The unpacking workers: started when there is work, each with one job at a time, ended when there has been none for a while.
 *
 * Knows the messages' envelope only. A worker that dies fails its job, and is replaced by the next.
 */
import { Worker } from 'node:worker_threads';
import { reasonOf } from '../../lib/errors.ts';
import { trimHeap } from '../../sys/process/heap.ts';
import type { FromWorker, ToWorker } from './unpack-protocol.ts';

/** What a job sends: a message without the number that the job gets here. */
export type JobMessage = ToWorker extends infer Message ? (Message extends ToWorker ? Omit<Message, 'id'> : never) : never;

/** A worker, for as long as a job has it. */
export type Job = {
  /** Memory shared with the worker, the job's own while it lasts: 1 MiB. Made once a worker, for V8 does not see when much of it is garbage. */
  readonly pieces: () => readonly SharedArrayBuffer[];
  readonly post: (message: JobMessage) => void;
  /** Called with this job's messages, also with a `failed` when the worker dies. */
  readonly listen: (listener: (message: FromWorker) => void) => void;
  /** A layer whose sender is slow lends its place to another; it goes on all the same. */
  readonly lend: (isLent: boolean) => void;
};

export type WorkerPool = {
  /** Waits until there may be one layer more. */
  readonly runLayer: <T>(use: (job: Job) => Promise<T>) => Promise<T>;
  /** Beside all layers: these may wait for a slow network, and removal must not wait for them. One at a time. */
  readonly runErrand: <T>(use: (job: Job) => Promise<T>) => Promise<T>;
  /** Beside all layers too: archives come and go at the pace of people's programs, which may stand still. */
  readonly runArchive: <T>(use: (job: Job) => Promise<T>) => Promise<T>;
  /** Ends all workers; their jobs fail. */
  readonly close: () => Promise<void>;
};

export type WorkerPoolDeps = { readonly workerFile: URL; readonly layersMax: number; readonly idleMs: number };

/** What a worker's heap may grow to; the bounds on a layer's entries keep it far below. */
const workerLimits = { maxOldGenerationSizeMb: 512, maxYoungGenerationSizeMb: 2 };

/** Layers that wait for slow senders, beside those that do not: each has a worker. A registry that stands still holds up no other. */
const lentMax = 16;

/** Imports and exports of several people at once; each takes a worker. */
const archivesMax = 4;

/** Bytes that go to a worker at once, and how many such pieces there are. */
const pieceBytes = 256 << 10;
const piecesMax = 4;

type Pooled = {
  readonly worker: Worker;
  listener: ((message: FromWorker) => void) | undefined;
  jobId: number;
  pieces: readonly SharedArrayBuffer[] | undefined;
  idleTimer: NodeJS.Timeout | undefined;
};

export function createWorkerPool(deps: WorkerPoolDeps): WorkerPool {
  const idle: Pooled[] = [];
  const all = new Set<Pooled>();
  const layers = createLimit(deps.layersMax, lentMax);
  const errands = createLimit(1);
  const archives = createLimit(archivesMax);

  const start = (): Pooled => {
    const worker = new Worker(deps.workerFile, { resourceLimits: workerLimits });
    const pooled: Pooled = { worker, listener: undefined, jobId: 0, pieces: undefined, idleTimer: undefined };
    all.add(pooled);
    let why = 'the unpacking worker ended';
    worker.on('message', (message: FromWorker) => {
      if (message.id === pooled.jobId) pooled.listener?.(message);
    });
    worker.on('error', (error) => {
      why = `the unpacking worker failed: ${reasonOf(error)}`;
    });
    worker.on('exit', () => {
      forget(pooled);
      pooled.listener?.({ id: pooled.jobId, kind: 'failed', code: 'INTERNAL', message: why });
    });
    return pooled;
  };

  const forget = (pooled: Pooled): void => {
    all.delete(pooled);
    const at = idle.indexOf(pooled);
    if (at >= 0) idle.splice(at, 1);
    clearTimeout(pooled.idleTimer);
  };

  /** Layers have one end of those that are idle, and the rest the other: V8 compiles what a worker does much anew in each. */
  const run = async <T>(use: (job: Job) => Promise<T>, lend: Job['lend'], isLayer = false): Promise<T> => {
    const pooled = (isLayer ? idle.pop() : idle.shift()) ?? start();
    clearTimeout(pooled.idleTimer);
    // While it works it keeps the process alive, as any other operation would.
    pooled.worker.ref();
    pooled.jobId += 1;
    const id = pooled.jobId;
    try {
      return await use({
        pieces: () => {
          pooled.pieces ??= Array.from({ length: piecesMax }, () => new SharedArrayBuffer(pieceBytes));
          return pooled.pieces;
        },
        post: (message) => pooled.worker.postMessage({ ...message, id }),
        listen: (listener) => {
          pooled.listener = listener;
        },
        lend,
      });
    } finally {
      pooled.listener = undefined;
      pooled.worker.unref();
      if (all.has(pooled)) rest(pooled, isLayer);
    }
  };

  const rest = (pooled: Pooled, isLayer: boolean): void => {
    if (isLayer) idle.push(pooled);
    else idle.unshift(pooled);
    const end = (): void => {
      forget(pooled);
      // The last one leaves the daemon as small as it was before.
      void pooled.worker.terminate().then(() => all.size === 0 && trimHeap());
    };
    pooled.idleTimer = setTimeout(end, deps.idleMs).unref();
  };

  return {
    runLayer: (use) => layers((lend) => run(use, lend, true)),
    runErrand: (use) => errands((lend) => run(use, lend)),
    runArchive: (use) => archives((lend) => run(use, lend)),
    close: async () => void (await Promise.all([...all].map((pooled) => pooled.worker.terminate()))),
  };
}

export type Limit = <T>(task: (lend: (isLent: boolean) => void) => Promise<T>) => Promise<T>;

/** Runs at most so many tasks at once, in the order in which they came; those that have lent their place, up to `lentMax`, do not count. */
export function createLimit(tasksMax: number, lentMax = 0): Limit {
  const waiting: (() => void)[] = [];
  let running = 0;
  let lent = 0;
  const leave = (): void => {
    // The place goes to the next directly, so that nobody slips in between. Who took his back may be one too many.
    const next = running > tasksMax ? undefined : waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  };
  return async (task) => {
    if (running >= tasksMax) await new Promise<void>((ready) => waiting.push(ready));
    else running += 1;
    let isLent = false;
    const lend = (wanted: boolean): void => {
      if (wanted === isLent || (wanted && lent === lentMax)) return;
      isLent = wanted;
      lent += wanted ? 1 : -1;
      if (wanted) leave();
      else running += 1;
    };
    try {
      return await task(lend);
    } finally {
      lend(false);
      leave();
    }
  };
}
