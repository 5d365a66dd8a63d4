/**
 * Bounds on waiting.
 */
import { BerthError } from './errors.ts';

/**
 * Waits for a promise at most so long. The work behind the promise goes on; what it gives later is not lost to others who wait for it.
 *
 * @throws {BerthError} DEADLINE_EXCEEDED `<what>: not done after <n> ms`.
 */
export async function within<T>(timeoutMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new BerthError('DEADLINE_EXCEEDED', `${what}: not done after ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** True when the promise ended in time, whatever its end. */
export async function endsWithin(timeoutMs: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, timeoutMs, false);
  });
  try {
    return await Promise.race([
      promise.then(
        () => true,
        () => true,
      ),
      late,
    ]);
  } finally {
    clearTimeout(timer);
  }
}
