/**
 * Reports the progress of a pull or an import while it runs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Transfer } from '../../../images/document/transfer.ts';
import { toTransferProgress } from '../../to-response/transfer-to-response.ts';
import type { TransferProgress } from '../../wire/berth-messages.ts';

/** Short enough for a smooth progress bar. */
const intervalMs = 200;

/**
 * Yields the progress five times a second until the work has ended, and once at the end.
 *
 * @param start starts the work, which passes a function that returns its progress to `onStart`.
 * @returns the result of the work. @throws the error of the work.
 */
export async function* reportProgress<T>(
  start: (onStart: (progress: () => Transfer) => void) => Promise<T>,
): AsyncGenerator<{ readonly progress: TransferProgress }, T> {
  let progress: (() => Transfer) | undefined;
  let hasEnded = false;
  const work = start((getProgress) => {
    progress = getProgress;
  });
  const ended = work
    .catch(() => undefined)
    .then(() => {
      hasEnded = true;
    });
  while (!hasEnded) {
    const timer = new AbortController();
    await Promise.race([ended, sleep(intervalMs, undefined, { signal: timer.signal }).catch(() => undefined)]);
    timer.abort();
    if (progress !== undefined) yield { progress: toTransferProgress(progress()) };
  }
  return await work;
}
