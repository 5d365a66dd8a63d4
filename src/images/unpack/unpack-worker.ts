/**
 * The program of an unpacking worker: what blocks or burns CPU on behalf of images happens here, off the daemon's thread.
 *
 * Decides nothing, and keeps nothing between jobs.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import { type MessagePort, parentPort } from 'node:worker_threads';
import { BerthError, internal, reasonOf } from '../../lib/errors.ts';
import { syncfs } from '../../sys/call/syscalls.ts';
import { assembleLayer } from '../layer/assemble-layer.ts';
import { openChunkSender, type WorkerChunkSender } from './chunk-sender.ts';
import { openLayerStream } from './layer-stream.ts';
import { openSpoolStream, type SpooledMember } from './spool-stream.ts';
import type { FromWorker, ToWorker, UnpackedLayer } from './unpack-protocol.ts';

if (parentPort === null) throw internal('the unpacking worker runs in a worker thread only');
serve(parentPort);

const noBytes = Buffer.alloc(0);

/** What takes bytes and is not done. */
type Present = { readonly id: number; readonly stream: ByteStream; readonly pieces: readonly Buffer[] };
type ByteStream = { readonly write: (bytes: Buffer) => Promise<void>; readonly end: () => Promise<Result>; readonly close: () => void };
type Result = { readonly kind: 'unpacked'; readonly layer: UnpackedLayer } | { readonly kind: 'spooled'; readonly members: readonly SpooledMember[] };

function serve(port: MessagePort): void {
  let present: Present | undefined;
  /** What gives bytes and is not done. */
  let giving: { readonly id: number; readonly outlet: WorkerChunkSender } | undefined;
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
        const stream = openLayerStream(message.job, message.devices);
        const end = async () => ({ kind: 'unpacked', layer: await stream.end() }) as const;
        present = { id, stream: { ...stream, end }, pieces: buffersOf(message.pieces) };
      });
    } else if (message.kind === 'spool') {
      next(id, () => {
        const stream = openSpoolStream(message.job);
        const end = async () => ({ kind: 'spooled', members: await stream.end() }) as const;
        present = { id, stream: { ...stream, end }, pieces: buffersOf(message.pieces) };
      });
    } else if (message.kind === 'assemble') {
      const outlet = openChunkSender(buffersOf(message.pieces), (piece, length) => post({ id, kind: 'bytes', piece, length }));
      giving = { id, outlet };
      next(id, async () => {
        await assembleLayer(message.job, outlet);
        outlet.flush();
        post({ id, kind: 'done' });
      });
    } else if (message.kind === 'returned') {
      if (giving?.id === id) giving.outlet.returned(message.piece);
    } else if (message.kind === 'bytes') {
      const { piece, length } = message;
      nextOf(id, async ({ stream, pieces }) => await stream.write(pieces[piece]?.subarray(0, length) ?? noBytes));
      next(id, () => post({ id, kind: 'returned', piece }));
    } else if (message.kind === 'end') {
      nextOf(id, async ({ stream }) => {
        const result = await stream.end();
        close(id);
        post({ id, ...result });
      });
    } else if (message.kind === 'cancel') {
      if (giving?.id === id) giving.outlet.cancel();
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

function buffersOf(pieces: readonly SharedArrayBuffer[]): Buffer[] {
  return pieces.map((memory) => Buffer.from(memory));
}

function syncPath(path: string): void {
  const fd = openSync(path, 'r');
  try {
    syncfs(fd);
  } finally {
    closeSync(fd);
  }
}
