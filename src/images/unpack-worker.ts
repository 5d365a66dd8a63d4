/**
 * The program of an unpacking worker: what blocks or burns CPU on behalf of images happens here, off the daemon's thread.
 *
 * Decides nothing, and keeps nothing between jobs.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import { type MessagePort, parentPort } from 'node:worker_threads';
import { BerthError, internal, reasonOf } from '../lib/errors.ts';
import { syncfs } from '../sys/syscalls.ts';
import { type LayerStream, openLayerStream } from './layer-stream.ts';
import type { FromWorker, ToWorker } from './unpack-protocol.ts';

if (parentPort === null) throw internal('the unpacking worker runs in a worker thread only');
serve(parentPort);

const noBytes = Buffer.alloc(0);

/** The layer being unpacked. */
type Present = { readonly id: number; readonly stream: LayerStream; readonly pieces: readonly Buffer[] };

function serve(port: MessagePort): void {
  let present: Present | undefined;
  /** What has been asked for and not done, one after the other. */
  let work: Promise<void> = Promise.resolve();

  const post = (message: FromWorker): void => port.postMessage(message);

  const close = (id: number): void => {
    if (present?.id !== id) return;
    present.stream.close();
    present = undefined;
  };

  const fail = (id: number, error: unknown): void => {
    close(id);
    post({ id, kind: 'failed', code: error instanceof BerthError ? error.code : 'INTERNAL', message: reasonOf(error) });
  };

  /** Runs when all before has ended; a failure is told, and is the end of the job. */
  const next = (id: number, action: () => void | Promise<void>): void => {
    work = work.then(action).catch((error: unknown) => fail(id, error));
  };

  /** As next(), for a layer that has not failed yet. */
  const nextOf = (id: number, action: (layer: Present) => Promise<void>): void =>
    next(id, async () => {
      if (present?.id === id) await action(present);
    });

  const handle = (message: ToWorker): void => {
    const { id } = message;
    if (message.kind === 'unpack') {
      next(id, () => {
        present = { id, stream: openLayerStream(message.job, message.devices), pieces: message.pieces.map((memory) => Buffer.from(memory)) };
      });
    } else if (message.kind === 'bytes') {
      const { piece, length } = message;
      nextOf(id, async ({ stream, pieces }) => await stream.write(pieces[piece]?.subarray(0, length) ?? noBytes));
      next(id, () => post({ id, kind: 'returned', piece }));
    } else if (message.kind === 'end') {
      nextOf(id, async ({ stream }) => {
        const layer = await stream.end();
        close(id);
        post({ id, kind: 'unpacked', layer });
      });
    } else if (message.kind === 'cancel') {
      // In its turn: the piece before it is short, and nothing is closed under a write.
      nextOf(id, async () => fail(id, new BerthError('CANCELLED', 'unpacking was cancelled')));
    } else {
      next(id, () => {
        if (message.kind === 'remove') rmSync(message.path, { recursive: true, force: true });
        else syncPath(message.path);
        post({ id, kind: 'done' });
      });
    }
  };

  port.on('message', handle);
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}
