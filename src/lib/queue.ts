/**
 * Runs tasks of the same key one after another, and tasks of different keys concurrently. No I/O.
 */

export type KeyedQueue = {
  /** Runs `task` when all earlier tasks of `key` have ended, and returns its result or failure. */
  readonly run: <T>(key: string, task: () => Promise<T>) => Promise<T>;
  /** Keys with a task running or waiting. */
  readonly size: () => number;
  /** Tasks running or waiting. */
  readonly depth: () => number;
};

export function createKeyedQueue(): KeyedQueue {
  const tails = new Map<string, Promise<unknown>>();
  let depth = 0;
  const run = <T>(key: string, task: () => Promise<T>): Promise<T> => {
    const result = (tails.get(key) ?? Promise.resolve()).then(task);
    // The next task waits for the end of this one, whether it succeeds or fails. Only the caller gets the failure.
    const tail: Promise<void> = result.then(
      () => release(key, tail),
      () => release(key, tail),
    );
    tails.set(key, tail);
    depth += 1;
    return result;
  };
  const release = (key: string, tail: Promise<void>): void => {
    depth -= 1;
    if (tails.get(key) === tail) tails.delete(key);
  };
  return { run, size: () => tails.size, depth: () => depth };
}
