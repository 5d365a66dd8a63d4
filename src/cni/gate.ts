/**
 * A readers-writer lock for asynchronous tasks: many shared tasks at a time, or one exclusive task.
 *
 * Pure: it only orders tasks.
 */
export type Gate = {
  /** Runs concurrently with other shared tasks, after all exclusive tasks queued before it. */
  readonly share: <T>(task: () => Promise<T>) => Promise<T>;
  /** Runs alone: after all tasks queued before it have ended; later tasks wait for it. */
  readonly exclude: <T>(task: () => Promise<T>) => Promise<T>;
};

export function createGate(): Gate {
  const shared = new Set<Promise<unknown>>();
  let exclusive: Promise<unknown> = Promise.resolve();

  const share = <T>(task: () => Promise<T>): Promise<T> => {
    const running = exclusive.then(task);
    const settled = running.catch(() => {});
    shared.add(settled);
    settled.then(() => shared.delete(settled));
    return running;
  };
  const exclude = <T>(task: () => Promise<T>): Promise<T> => {
    const running = Promise.all([exclusive, ...shared]).then(task);
    exclusive = running.catch(() => {});
    return running;
  };
  return { share, exclude };
}
