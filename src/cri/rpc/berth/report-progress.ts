/**
 * How a pull or an import stands, told again and again for as long as it goes on.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Transfer } from '../../../images/document/transfer.ts';
import { toTransferProgress } from '../../to-response/transfer-to-response.ts';
import type { TransferProgress } from '../../wire/berth-messages.ts';

/** Often enough for a bar that moves. */
const intervalMs = 200;

/**
 * Tells how the work stands, five times a second, until it has ended, and once more then.
 *
 * @param start hands over what tells it. @returns what the work gives; throws what it throws.
 */
export async function* reportProgress<T>(
  start: (onStart: (progress: () => Transfer) => void) => Promise<T>,
): AsyncGenerator<{ readonly progress: TransferProgress }, T> {
  let progress: (() => Transfer) | undefined;
  let hasEnded = false;
  const work = start((given) => {
    progress = given;
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
