/**
 * Bytes from a worker to the daemon's thread, in shared memory that goes back and forth: as much is under way as there are pieces. The worker's side.
 */
import { BerthError } from '../../lib/errors.ts';
import type { ChunkSender } from '../layer/assemble-layer.ts';

export type WorkerChunkSender = ChunkSender & {
  /** The daemon has read it. */
  readonly returned: (piece: number) => void;
  /** From now on nobody wants any more. */
  readonly cancel: () => void;
  /** Sends what has been filled of the last piece. */
  readonly flush: () => void;
};

export function openChunkSender(pieces: readonly Buffer[], send: (piece: number, length: number) => void): WorkerChunkSender {
  const free = [...pieces.keys()];
  let present: { readonly index: number; readonly bytes: Buffer; fill: number } | undefined;
  let isCancelled = false;
  let wake: (() => void) | undefined;

  const next = async (): Promise<NonNullable<typeof present>> => {
    for (;;) {
      if (isCancelled) throw new BerthError('CANCELLED', 'nobody wants the archive any more');
      const index = free.pop();
      const bytes = index === undefined ? undefined : pieces[index];
      if (index !== undefined && bytes !== undefined) return { index, bytes, fill: 0 };
      await new Promise<void>((ready) => {
        wake = ready;
      });
    }
  };

  const flush = (): void => {
    if (present !== undefined && present.fill > 0) send(present.index, present.fill);
    present = undefined;
  };

  return {
    space: async () => {
      present ??= await next();
      return present.bytes.subarray(present.fill);
    },
    filled: (length) => {
      if (present === undefined) return;
      present.fill += length;
      if (present.fill === present.bytes.length) flush();
    },
    returned: (piece) => {
      free.push(piece);
      wake?.();
    },
    cancel: () => {
      isCancelled = true;
      wake?.();
    },
    flush,
  };
}
