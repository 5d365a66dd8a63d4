/**
 * A layer's archive as it is put together by a worker, at the pace of whoever reads it. The daemon's side.
 */
import { BerthError } from '../../lib/errors.ts';
import type { AssembleJob } from '../layer/assemble-layer.ts';
import type { FromWorker } from './unpack-protocol.ts';
import type { Job, WorkerPool } from './worker-pool.ts';

const pieceBytes = 256 << 10;
const piecesMax = 4;

/**
 * Nothing is under way any more when it has ended, also when its reader leaves early.
 *
 * @throws {BerthError} as assembleLayer(), the layer's diff id in front; the signal's reason when that was aborted.
 */
export async function* assemble(pool: Pick<WorkerPool, 'runArchive'>, layer: AssembleJob, signal: AbortSignal): AsyncGenerator<Buffer, undefined> {
  const pieces = Array.from({ length: piecesMax }, () => new SharedArrayBuffer(pieceBytes));
  const arrived: Extract<FromWorker, { kind: 'bytes' }>[] = [];
  let job: Job | undefined;
  let end: { readonly failure?: unknown } | undefined;
  let hasLeft = false;
  let wake: () => void = () => undefined;
  const wakeUp = (): void => wake();

  const run = (given: Job): Promise<void> =>
    new Promise((resolve, reject) => {
      if (hasLeft) return resolve();
      job = given;
      given.listen((message) => {
        if (message.kind === 'bytes') arrived.push(message);
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
    .then((how) => {
      end = how;
      wakeUp();
    });

  signal.addEventListener('abort', wakeUp);
  try {
    for (;;) {
      signal.throwIfAborted();
      const next = arrived.shift();
      if (next !== undefined) {
        // A copy: the piece is filled again while this is still on its way.
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
    hasLeft = true;
    if (end === undefined) job?.post({ kind: 'cancel' });
    await running;
  }
}
