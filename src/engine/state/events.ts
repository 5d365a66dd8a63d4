/**
 * Tells whoever listens what became of sandboxes and containers. A listener that does not keep up is ended; nobody waits for it.
 */
import { BerthError } from '../../lib/errors.ts';
import type { ContainerView, SandboxView } from './records.ts';

export type EventKind = 'created' | 'started' | 'stopped' | 'deleted';

/** What happened, and the pod as it was right after. */
export type LifeEvent = {
  readonly kind: EventKind;
  /** Of the sandbox or the container. */
  readonly id: string;
  /** No two events have the same. */
  readonly atNs: string;
  /** For the deletion of the sandbox itself: as it was last. Undefined when a container outlived it. */
  readonly sandbox: SandboxView | undefined;
  readonly containers: readonly ContainerView[];
};

export type Events = {
  readonly hasListeners: () => boolean;
  readonly emit: (event: LifeEvent) => void;
  /**
   * The events from now on, until the signal, or close().
   *
   * @throws {BerthError} RESOURCE_EXHAUSTED for one listener too many; from the iteration, for one that fell behind.
   */
  readonly listen: (signal: AbortSignal) => AsyncIterable<LifeEvent>;
  /** Ends all listeners, and those to come: the daemon ends. */
  readonly close: () => void;
};

/** A node's pods all ending at once make about a thousand; an event holds references, so this is some 100 KiB. */
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
    if (listeners.size >= listenersMax) throw new BerthError('RESOURCE_EXHAUSTED', `listening to events: ${listenersMax} others listen already`);
    const listener: Listener = { pending: [], end: isClosed ? 'closed' : null, wake: () => {} };
    // From this moment on, not from the first step of the iteration.
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
      const portion = listener.pending;
      listener.pending = [];
      // One that falls behind while this portion is handed out gets no more of it.
      for (const event of portion) {
        if (listener.end === 'behind') break;
        yield event;
      }
      if (listener.end === 'behind') throw new BerthError('RESOURCE_EXHAUSTED', `listening to events: more than ${pendingMax} wait to be taken`);
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
