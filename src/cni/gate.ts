/**
 * Lets many tasks run at the same time, or one alone.
 *
 * Pure: it orders tasks and does nothing itself.
 */
export type Gate = {
  /** Runs beside other shared tasks, after exclusive ones that were asked for earlier. */
  readonly share: <T>(task: () => Promise<T>) => Promise<T>;
  /** Runs when all tasks that were asked for earlier have ended, and holds up all later ones. */
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
