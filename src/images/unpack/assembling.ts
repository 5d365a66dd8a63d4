/**
 * Streams a layer's archive from the worker that reassembles it, at the pace of the reader. The daemon's side. Does no I/O itself.
 */
import { BerthError } from '../../lib/errors.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { FromWorker } from './unpack-protocol.ts';
import type { Job, WorkerPool } from './worker-pool.ts';

const pieceBytes = 256 << 10;
const piecesMax = 4;

/**
 * Yields the archive of a layer. When the generator ends, also early, the worker has stopped.
 *
 * @throws {BerthError} as assembleLayer(), prefixed with the diff id of the layer; the signal's reason when it is aborted.
 */
export async function* assemble(pool: Pick<WorkerPool, 'runArchive'>, layer: AssembleJob, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
  const pieces = Array.from({ length: piecesMax }, () => new SharedArrayBuffer(pieceBytes));
  const received: Extract<FromWorker, { kind: 'bytes' }>[] = [];
  let job: Job | undefined;
  let end: { readonly failure?: unknown } | undefined;
  let isClosed = false;
  let wake: () => void = () => undefined;
  const wakeUp = (): void => wake();

  const run = (given: Job): Promise<void> =>
    new Promise((resolve, reject) => {
      if (isClosed) return resolve();
      job = given;
      given.listen((message) => {
        if (message.kind === 'bytes') received.push(message);
        if (message.kind === 'done') resolve();
        if (message.kind === 'failed') reject(new BerthError(message.code, `layer ${layer.diffId}: ${message.message}`));
        wakeUp();
      });
      given.post({ kind: 'assemble', job: layer, pieces });
    });
  const running = pool
    .runArchive(run)
    .then(
      () => ({}),
      (failure: unknown) => ({ failure }),
    )
    .then((outcome) => {
      end = outcome;
      wakeUp();
    });

  signal.addEventListener('abort', wakeUp);
  try {
    for (;;) {
      signal.throwIfAborted();
      const next = received.shift();
      if (next !== undefined) {
        // A copy: the worker may overwrite the piece before the reader has used it.
        yield Buffer.from(Buffer.from(pieces[next.piece] ?? new ArrayBuffer(0), 0, next.length));
        job?.post({ kind: 'returned', piece: next.piece });
      } else if (end !== undefined) {
        if ('failure' in end) throw end.failure;
        return;
      } else {
        await new Promise<void>((ready) => {
          wake = ready;
        });
      }
    }
  } finally {
    signal.removeEventListener('abort', wakeUp);
    isClosed = true;
    if (end === undefined) job?.post({ kind: 'cancel' });
    await running;
  }
}
