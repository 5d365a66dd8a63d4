/**
 * Who waits for the end of which container. One watch per running container; it is over when the exit is in the container's status.
 */

export type Watch = {
  readonly exited: Promise<void>;
  /** Set with the stop signal, which is sent once however many stops are asked for. */
  isStopping: boolean;
};

export type Watches = {
  readonly add: (id: string, exited: Promise<void>) => void;
  /** Undefined when the container does not run. */
  readonly of: (id: string) => Watch | undefined;
};

export function createWatches(): Watches {
  const watches = new Map<string, Watch>();
  return {
    add: (id, exited) => {
      watches.set(id, { exited: exited.finally(() => watches.delete(id)), isStopping: false });
    },
    of: (id) => watches.get(id),
  };
}
