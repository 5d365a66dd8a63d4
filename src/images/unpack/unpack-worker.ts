/**
 * The program of an unpack worker. It does the blocking and CPU-intensive work for images, off the daemon's thread.
 *
 * Makes no decisions, and keeps no state between jobs.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import { type MessagePort, parentPort } from 'node:worker_threads';
import { BerthError, codeOf, internal, reasonOf } from '../../lib/errors.ts';
import { syncfs } from '../../sys/call/syscalls.ts';
import { assembleLayer } from '../layer/assemble-layer.ts';
import { restoreParents } from '../layer/implied-directories.ts';
import { openChunkSender, type WorkerChunkSender } from './chunk-sender.ts';
import { openLayerStream } from './layer-stream.ts';
import { openSpoolStream, type SpooledMember } from './spool-stream.ts';
import type { FromWorker, ToWorker, UnpackedLayer } from './unpack-protocol.ts';

type Message<Kind extends ToWorker['kind']> = Extract<ToWorker, { readonly kind: Kind }>;

type Result = { readonly kind: 'unpacked'; readonly layer: UnpackedLayer } | { readonly kind: 'spooled'; readonly members: readonly SpooledMember[] };
type ByteStream = { readonly write: (bytes: Buffer) => Promise<void>; readonly end: () => Promise<Result>; readonly close: () => void };

/** The job that receives bytes: a layer or an archive. */
type Receiver = { readonly id: number; readonly stream: ByteStream; readonly pieces: readonly Buffer[] };

const noBytes = Buffer.alloc(0);

class UnpackWorker {
  readonly #port: MessagePort;
  #receiver: Receiver | undefined;
  /** The job that sends bytes: the assembly of a layer's archive. */
  #sender: { readonly id: number; readonly chunks: WorkerChunkSender } | undefined;
  /** Resolves when all actions so far have ended. Actions run one after another. */
  #queue: Promise<void> = Promise.resolve();

  constructor(port: MessagePort) {
    this.#port = port;
  }

  handle(message: ToWorker): void {
    switch (message.kind) {
      case 'unpack':
        this.#unpack(message);
        break;
      case 'spool':
        this.#spool(message);
        break;
      case 'bytes':
        this.#write(message);
        break;
      case 'end':
        this.#end(message.id);
        break;
      case 'assemble':
        this.#assemble(message);
        break;
      case 'returned':
        if (this.#sender?.id === message.id) this.#sender.chunks.returned(message.piece);
        break;
      case 'cancel':
        this.#cancel(message.id);
        break;
      case 'remove':
        this.#run(message.id, () => rmSync(message.path, { recursive: true, force: true }));
        break;
      case 'sync':
        this.#run(message.id, () => syncPath(message.path));
        break;
      case 'parents':
        this.#run(message.id, () => restoreParents(message.job));
    }
  }

  #unpack({ id, job, devices, pieces }: Message<'unpack'>): void {
    this.#enqueue(id, () => {
      const stream = openLayerStream(job, devices);
      const end = async () => ({ kind: 'unpacked', layer: await stream.end() }) as const;
      this.#receiver = { id, stream: { ...stream, end }, pieces: toBuffers(pieces) };
    });
  }

  #spool({ id, job, pieces }: Message<'spool'>): void {
    this.#enqueue(id, () => {
      const stream = openSpoolStream(job);
      const end = async () => ({ kind: 'spooled', members: await stream.end() }) as const;
      this.#receiver = { id, stream: { ...stream, end }, pieces: toBuffers(pieces) };
    });
  }

  #write({ id, piece, length }: Message<'bytes'>): void {
    this.#enqueueFor(id, async ({ stream, pieces }) => await stream.write(pieces[piece]?.subarray(0, length) ?? noBytes));
    this.#enqueue(id, () => this.#post({ id, kind: 'returned', piece }));
  }

  #end(id: number): void {
    this.#enqueueFor(id, async ({ stream }) => {
      const result = await stream.end();
      this.#close(id);
      this.#post({ id, ...result });
    });
  }

  #assemble({ id, job, pieces }: Message<'assemble'>): void {
    const chunks = openChunkSender(toBuffers(pieces), (piece, length) => this.#post({ id, kind: 'bytes', piece, length }));
    this.#sender = { id, chunks };
    this.#enqueue(id, async () => {
      await assembleLayer(job, chunks);
      chunks.flush();
      this.#post({ id, kind: 'done' });
    });
  }

  #cancel(id: number): void {
    if (this.#sender?.id === id) this.#sender.chunks.cancel();
    // Queued, so that no file is closed during a write. A write of one piece is short.
    this.#enqueueFor(id, async () => this.#fail(id, new BerthError('CANCELLED', 'unpacking canceled')));
  }

  /** Runs a job that is one action. */
  #run(id: number, action: () => void): void {
    this.#enqueue(id, () => {
      action();
      this.#post({ id, kind: 'done' });
    });
  }

  /** Runs the action after all earlier ones. If it fails, its job fails. */
  #enqueue(id: number, action: () => void | Promise<void>): void {
    this.#queue = this.#queue.then(action).catch((error: unknown) => this.#fail(id, error));
  }

  /** Like #enqueue(), but does nothing if the job has already failed. */
  #enqueueFor(id: number, action: (receiver: Receiver) => Promise<void>): void {
    this.#enqueue(id, async () => {
      if (this.#receiver?.id === id) await action(this.#receiver);
    });
  }

  #fail(id: number, error: unknown): void {
    this.#close(id);
    this.#post({ id, kind: 'failed', code: codeOf(error), message: reasonOf(error) });
  }

  #close(id: number): void {
    if (this.#receiver?.id !== id) return;
    this.#receiver.stream.close();
    this.#receiver = undefined;
  }

  #post(message: FromWorker): void {
    this.#port.postMessage(message);
  }
}

function toBuffers(pieces: readonly SharedArrayBuffer[]): Buffer[] {
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

/** Starts the worker. */
function serve(port: MessagePort): void {
  const worker = new UnpackWorker(port);
  port.on('message', (message: ToWorker) => worker.handle(message));
}

if (parentPort === null) throw internal('the unpack worker must run in a worker thread');
serve(parentPort);
