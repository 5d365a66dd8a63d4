/**
 * Deduplicates concurrent creations by a key that must be unique: a retried call joins the one in progress and gets its result. Does no I/O itself.
 *
 * The work continues after its caller's deadline, so a retry finds the object instead of a reserved name.
 */

export type Singleflight = {
  /** Returns the id from `create`; concurrent calls with the same key get the same id. */
  readonly join: (key: string, create: () => Promise<string>) => Promise<string>;
};

export function createSingleflight(): Singleflight {
  const inFlight = new Map<string, Promise<string>>();
  return {
    join: (key, create) => {
      const running = inFlight.get(key);
      if (running !== undefined) return running;
      const work = create().finally(() => inFlight.delete(key));
      inFlight.set(key, work);
      return work;
    },
  };
}
