/**
 * Publishes lifecycle events of sandboxes and containers. A listener that does not keep up is disconnected; nothing waits for it. Does no I/O itself.
 */
import { BerthError } from '../../lib/errors.ts';
import type { ContainerView, SandboxView } from './records.ts';

export type EventKind = 'created' | 'started' | 'stopped' | 'deleted';

/** An event, and the pod right after it. */
export type LifeEvent = {
  readonly kind: EventKind;
  /** Id of the sandbox or container. */
  readonly id: string;
  /** Unique: no two events have the same time. */
  readonly atNs: string;
  /** For the deletion of the sandbox itself: its last state. Undefined if a container outlived its sandbox. */
  readonly sandbox: SandboxView | undefined;
  readonly containers: readonly ContainerView[];
};

export type Events = {
  readonly hasListeners: () => boolean;
  readonly emit: (event: LifeEvent) => void;
  /**
   * Returns the events from now on, until the signal is aborted or close() is called.
   *
   * @throws {BerthError} RESOURCE_EXHAUSTED for too many listeners; during iteration, if the listener has fallen behind.
   */
  readonly listen: (signal: AbortSignal) => AsyncIterable<LifeEvent>;
  /** Ends all current and future listeners, when the daemon shuts down. */
  readonly close: () => void;
};

/** If all pods of a node end at once, there are about a thousand events. An event holds references, so this is about 100 KiB. */
const pendingMax = 4096;
const listenersMax = 64;

type Listener = { pending: LifeEvent[]; end: 'closed' | 'behind' | null; wake: () => void };

export function createEvents(): Events {
  const listeners = new Set<Listener>();
  let isClosed = false;
  const end = (listener: Listener, reason: 'closed' | 'behind') => {
    listeners.delete(listener);
    listener.end = reason;
    if (reason === 'behind') listener.pending = [];
    listener.wake();
  };
  const emit = (event: LifeEvent) => {
    for (const listener of listeners) {
      if (listener.pending.length >= pendingMax) end(listener, 'behind');
      else {
        listener.pending.push(event);
        listener.wake();
      }
    }
  };
  const listen = (signal: AbortSignal) => {
    if (listeners.size >= listenersMax) throw new BerthError('RESOURCE_EXHAUSTED', `listen to events: there are already ${listenersMax} listeners`);
    const listener: Listener = { pending: [], end: isClosed ? 'closed' : null, wake: () => {} };
    // Registered now, not at the first step of the iteration.
    if (!isClosed && !signal.aborted) listeners.add(listener);
    signal.addEventListener('abort', () => end(listener, 'closed'), { once: true });
    return follow(listener, signal, () => listeners.delete(listener));
  };
  const close = () => {
    isClosed = true;
    for (const listener of listeners) end(listener, 'closed');
  };
  return { hasListeners: () => listeners.size > 0, emit, listen, close };
}

async function* follow(listener: Listener, signal: AbortSignal, leave: () => void): AsyncGenerator<LifeEvent> {
  try {
    while (!signal.aborted) {
      const batch = listener.pending;
      listener.pending = [];
      // A listener that falls behind during this batch gets no more of it.
      for (const event of batch) {
        if (listener.end === 'behind') break;
        yield event;
      }
      if (listener.end === 'behind')
        throw new BerthError('RESOURCE_EXHAUSTED', `listen to events: the listener is more than ${pendingMax} events behind`);
      if (listener.pending.length > 0) continue;
      if (listener.end === 'closed') return;
      await new Promise<void>((resolve) => {
        listener.wake = resolve;
      });
    }
  } finally {
    leave();
  }
}
