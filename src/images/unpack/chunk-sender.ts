/**
 * Sends bytes from a worker to the daemon's thread in a fixed number of shared memory pieces, which the daemon returns. The worker's side. Does no I/O itself.
 */
import { BerthError } from '../../lib/errors.ts';
import type { ChunkSender } from '../layer/assemble-layer.ts';

export type WorkerChunkSender = ChunkSender & {
  /** The daemon has read the piece. */
  readonly returned: (piece: number) => void;
  /** The reader has stopped: space() rejects from now on. */
  readonly cancel: () => void;
  /** Sends the last, partly filled piece. */
  readonly flush: () => void;
};

export function openChunkSender(pieces: readonly Buffer[], send: (piece: number, length: number) => void): WorkerChunkSender {
  const free = [...pieces.keys()];
  let current: { readonly index: number; readonly bytes: Buffer; fill: number } | undefined;
  let isCancelled = false;
  let wake: (() => void) | undefined;

  const next = async (): Promise<NonNullable<typeof current>> => {
    for (;;) {
      if (isCancelled) throw new BerthError('CANCELLED', 'canceled by the reader of the archive');
      const index = free.pop();
      const bytes = index === undefined ? undefined : pieces[index];
      if (index !== undefined && bytes !== undefined) return { index, bytes, fill: 0 };
      await new Promise<void>((ready) => {
        wake = ready;
      });
    }
  };

  const flush = (): void => {
    if (current !== undefined && current.fill > 0) send(current.index, current.fill);
    current = undefined;
  };

  return {
    space: async () => {
      current ??= await next();
      return current.bytes.subarray(current.fill);
    },
    filled: (length) => {
      if (current === undefined) return;
      current.fill += length;
      if (current.fill === current.bytes.length) flush();
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
