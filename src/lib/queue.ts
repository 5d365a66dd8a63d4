/**
 * Runs tasks one after another per key, and tasks of different keys beside each other.
 */

export type KeyedQueue = {
  /** Runs `task` when all earlier tasks of `key` have ended; its result or failure is the caller's. */
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
    // What waits next does so for the end, whatever it was; the failure itself goes to the caller alone.
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
