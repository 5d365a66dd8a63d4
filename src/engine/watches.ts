/**
 * Who waits for the end of which container. One watch per running container; it is over when the exit is in the container's status.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

export type Watch = {
  readonly exited: Promise<void>;
  /** Aborted with the stop signal, which is sent once however many stops are asked for. */
  readonly stopping: AbortController;
};

export type Watches = {
  /** Begins to watch, apart from the call that does so: it will be over, and its trace, when the container ends. */
  readonly add: (id: string, watch: () => Promise<void>) => void;
  /** Undefined when the container does not run. */
  readonly of: (id: string) => Watch | undefined;
};

export function createWatches(): Watches {
  const watches = new Map<string, Watch>();
  const apart = AsyncLocalStorage.snapshot();
  return {
    add: (id, watch) => {
      watches.set(id, { exited: apart(watch).finally(() => watches.delete(id)), stopping: new AbortController() });
    },
    of: (id) => watches.get(id),
  };
}
