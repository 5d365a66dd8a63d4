/**
 * Waits for backpressure on a writable stream to end. Pure: it uses only the given stream.
 */
import type { Writable } from 'node:stream';

/** Resolves when the stream accepts more data, or is destroyed. */
export function drained(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    if (!stream.writableNeedDrain || stream.destroyed) return resolve();
    const done = () => {
      stream.off('drain', done);
      stream.off('close', done);
      resolve();
    };
    stream.on('drain', done);
    stream.on('close', done);
  });
}
