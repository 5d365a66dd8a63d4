/**
 * The pool of unpack workers. Workers start on demand, run one job at a time, and end after some idle time.
 *
 * Knows only the number and the kind of a message. When a worker dies, its job fails, and the next job starts another worker.
 */
import { Worker } from 'node:worker_threads';
import { reasonOf } from '../../lib/errors.ts';
import { trimHeap } from '../../sys/process/heap.ts';
import type { FromWorker, ToWorker } from './unpack-protocol.ts';

/** A message of a job without the job's number, which the pool adds. */
export type JobMessage = ToWorker extends infer Message ? (Message extends ToWorker ? Omit<Message, 'id'> : never) : never;

/** A job's use of a worker. */
export type Job = {
  /** 1 MiB of memory shared with the worker, for use during the job. Allocated once for each worker, because V8 collects unused shared memory late. */
  readonly pieces: () => readonly SharedArrayBuffer[];
  readonly post: (message: JobMessage) => void;
  /** Sets the listener for the job's messages. If the worker dies, it receives `failed`. */
  readonly listen: (listener: (message: FromWorker) => void) => void;
  /** Lends the place of a layer with a slow sender to another layer, or takes it back. The job continues in both cases. */
  readonly lend: (isLent: boolean) => void;
};

export type WorkerPoolDeps = { readonly workerFile: URL; readonly layersMax: number; readonly idleMs: number };

type Use<T> = (job: Job) => Promise<T>;

/** Heap limits of a worker. The limits for a layer's entries keep it far below. */
const workerLimits = { maxOldGenerationSizeMb: 512, maxYoungGenerationSizeMb: 2 };

/** Layers with slow senders in addition to `layersMax`, each with its own worker. With them a registry that stalls does not delay other pulls. */
const lentMax = 16;

/** Concurrent imports and exports, each with its own worker. */
const archivesMax = 4;

/** Size and number of the pieces in which bytes are sent to a worker. */
const pieceBytes = 256 << 10;
const piecesMax = 4;

type Pooled = {
  readonly worker: Worker;
  listener: ((message: FromWorker) => void) | undefined;
  jobId: number;
  pieces: readonly SharedArrayBuffer[] | undefined;
  idleTimer: NodeJS.Timeout | undefined;
};

export class WorkerPool {
  readonly #workerFile: URL;
  readonly #idleMs: number;
  /** Layers use the workers at the end, other jobs those at the start: V8 compiles the code of a job in each worker again. */
  readonly #idle: Pooled[] = [];
  readonly #all = new Set<Pooled>();
  readonly #layers: Limit;
  readonly #errands = createLimit(1);
  readonly #archives = createLimit(archivesMax);

  constructor(deps: WorkerPoolDeps) {
    this.#workerFile = deps.workerFile;
    this.#idleMs = deps.idleMs;
    this.#layers = createLimit(deps.layersMax, lentMax);
  }

  /** Runs a layer when fewer than `layersMax` are running. */
  runLayer<T>(use: Use<T>): Promise<T> {
    return this.#layers((lend) => this.#run(use, lend, true));
  }

  /** Runs a short job, one at a time. Independent of layers, which may wait for a slow network: removals must not wait for them. */
  runErrand<T>(use: Use<T>): Promise<T> {
    return this.#errands((lend) => this.#run(use, lend, false));
  }

  /** Runs an import or export. Independent of layers, too, because the client sets its pace, and may stall. */
  runArchive<T>(use: Use<T>): Promise<T> {
    return this.#archives((lend) => this.#run(use, lend, false));
  }

  /** Ends all workers. Their jobs fail. */
  async close(): Promise<void> {
    await Promise.all([...this.#all].map((pooled) => pooled.worker.terminate()));
  }

  async #run<T>(use: Use<T>, lend: Job['lend'], isLayer: boolean): Promise<T> {
    const pooled = (isLayer ? this.#idle.pop() : this.#idle.shift()) ?? this.#start();
    clearTimeout(pooled.idleTimer);
    // A running job keeps the process alive, like any other operation.
    pooled.worker.ref();
    pooled.jobId += 1;
    try {
      return await use(createJob(pooled, lend));
    } finally {
      pooled.listener = undefined;
      pooled.worker.unref();
      if (this.#all.has(pooled)) this.#rest(pooled, isLayer);
    }
  }

  #start(): Pooled {
    const worker = new Worker(this.#workerFile, { resourceLimits: workerLimits });
    const pooled: Pooled = { worker, listener: undefined, jobId: 0, pieces: undefined, idleTimer: undefined };
    this.#all.add(pooled);
    let reason = 'the unpack worker exited';
    worker.on('message', (message: FromWorker) => {
      if (message.id === pooled.jobId) pooled.listener?.(message);
    });
    worker.on('error', (error) => {
      reason = `the unpack worker failed: ${reasonOf(error)}`;
    });
    worker.on('exit', () => {
      this.#forget(pooled);
      pooled.listener?.({ id: pooled.jobId, kind: 'failed', code: 'INTERNAL', message: reason });
    });
    return pooled;
  }

  #rest(pooled: Pooled, isLayer: boolean): void {
    if (isLayer) this.#idle.push(pooled);
    else this.#idle.unshift(pooled);
    pooled.idleTimer = setTimeout(() => this.#end(pooled), this.#idleMs).unref();
  }

  #end(pooled: Pooled): void {
    this.#forget(pooled);
    // After the last one, return the memory: the daemon is as small as before.
    void pooled.worker.terminate().then(() => this.#all.size === 0 && trimHeap());
  }

  #forget(pooled: Pooled): void {
    this.#all.delete(pooled);
    const at = this.#idle.indexOf(pooled);
    if (at >= 0) this.#idle.splice(at, 1);
    clearTimeout(pooled.idleTimer);
  }
}

function createJob(pooled: Pooled, lend: Job['lend']): Job {
  const id = pooled.jobId;
  return {
    pieces: () => {
      pooled.pieces ??= Array.from({ length: piecesMax }, () => new SharedArrayBuffer(pieceBytes));
      return pooled.pieces;
    },
    post: (message) => pooled.worker.postMessage({ ...message, id }),
    listen: (listener) => {
      pooled.listener = listener;
    },
    lend,
  };
}

export type Limit = <T>(task: (lend: (isLent: boolean) => void) => Promise<T>) => Promise<T>;

/** Returns a limit of concurrent tasks, which start in the order of the calls. Tasks that have lent their place, at most `lentMax`, do not count. */
export function createLimit(tasksMax: number, lentMax = 0): Limit {
  const waiting: (() => void)[] = [];
  let running = 0;
  let lent = 0;
  const leave = (): void => {
    // Pass the place on directly, so that no later task gets it. After a task took its place back, one task too many may be running.
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
