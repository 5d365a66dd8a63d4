/**
 * Watches of running containers, one for each. A watch ends when the exit is recorded in the container's status.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

export type Watch = {
  readonly exited: Promise<void>;
  /** Aborted when the stop signal is sent, which happens once for any number of stop requests. */
  readonly stopping: AbortController;
};

export type Watches = {
  /** Starts a watch outside the context of the current call, whose trace ends before the container does. */
  readonly add: (id: string, watch: () => Promise<void>) => void;
  /** Undefined if the container is not running. */
  readonly of: (id: string) => Watch | undefined;
};

export function createWatches(): Watches {
  const watches = new Map<string, Watch>();
  const outsideCall = AsyncLocalStorage.snapshot();
  return {
    add: (id, watch) => {
      watches.set(id, { exited: outsideCall(watch).finally(() => watches.delete(id)), stopping: new AbortController() });
    },
    of: (id) => watches.get(id),
  };
}
