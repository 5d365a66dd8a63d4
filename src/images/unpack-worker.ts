/**
 * The program of an unpacking worker: what blocks or burns CPU on behalf of images happens here, off the daemon's thread.
 *
 * Decides nothing, and keeps nothing between jobs.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { BerthError, internal, reasonOf } from '../lib/errors.ts';
import { syncfs } from '../sys/syscalls.ts';
import { type LayerStream, openLayerStream } from './layer-stream.ts';
import type { FromWorker, ToWorker } from './unpack-protocol.ts';

if (parentPort === null) throw internal('the unpacking worker runs in a worker thread only');
const port = parentPort;

/** The layer being unpacked, and the work on it that has not ended, one after the other. */
let stream: LayerStream | undefined;
let work: Promise<void> = Promise.resolve();

const handlers: { readonly [Kind in ToWorker['kind']]: (message: Extract<ToWorker, { kind: Kind }>) => void } = {
  unpack: ({ job }) => {
    work = step(() => {
      stream = openLayerStream(job);
    });
  },
  bytes: ({ memory, length }) => {
    const target = stream;
    const write = async () => await (isCurrent(target) ? target.write(Buffer.from(memory, 0, length)) : undefined);
    work = work.then(() => step(write)).then(() => post({ kind: 'returned', memory }, [memory]));
  },
  end: () => {
    const target = stream;
    const end = async () => {
      if (!isCurrent(target)) return;
      const layer = await target.end();
      close();
      post({ kind: 'unpacked', layer });
    };
    work = work.then(() => step(end));
  },
  cancel: () => fail(new BerthError('CANCELLED', 'unpacking was cancelled')),
  remove: ({ path }) => {
    work = step(() => {
      rmSync(path, { recursive: true, force: true });
      post({ kind: 'done' });
    });
  },
  sync: ({ path }) => {
    work = step(() => {
      syncPath(path);
      post({ kind: 'done' });
    });
  },
};

port.on('message', (message: ToWorker) => {
  // The table is complete; TypeScript cannot follow that key and argument belong together.
  (handlers[message.kind] as (message: ToWorker) => void)(message);
});

/** Runs one piece of work; its failure is the job's. */
async function step(action: () => void | Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    fail(error);
  }
}

/** False for what belongs to a layer that has failed: its bytes are given back unread. */
function isCurrent(target: LayerStream | undefined): target is LayerStream {
  return target !== undefined && target === stream;
}

/** Says so, once a job. */
function fail(error: unknown): void {
  const isReported = stream === undefined && error instanceof BerthError && error.code === 'CANCELLED';
  close();
  if (isReported) return;
  post({ kind: 'failed', code: error instanceof BerthError ? error.code : 'INTERNAL', message: reasonOf(error) });
}

function close(): void {
  const closing = stream;
  stream = undefined;
  closing?.close();
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}

function post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}
