/**
 * Singleflight under way, by the name that must be unique: a retried call joins the one in flight and gets its result.
 *
 * The work does not end with its caller's deadline: the retry finds it done, never a reserved name.
 */

export type Singleflight = {
  /** The id that `create` gives; a call with the same key meanwhile gets the same. */
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
