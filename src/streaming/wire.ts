/**
 * An upgraded connection: bytes in, bytes out in order, with an end to both.
 *
 * Holds what the socket holds and one chunk for each sender that waits; never more, however slow the client.
 */
import type { Duplex } from 'node:stream';

/** What carries frames: a socket, or a tunnel inside another protocol. */
export type Link = {
  /** Sends when what was sent before has gone to the kernel. @returns false when the connection is over. */
  readonly send: (parts: readonly Buffer[]) => Promise<boolean>;
  /** Sends ahead of those who wait: answers that must not wait for data. */
  readonly sendNow: (parts: readonly Buffer[]) => void;
  /** Stops, starts reading. While stopped, the owner is asked for a heartbeat now and then. */
  readonly setPaused: (isPaused: boolean) => void;
  /** Ends when all has been sent; what still comes in is thrown away. */
  readonly end: () => void;
};

export type LinkHandlers = {
  /** The chunk belongs to the handler. */
  readonly onBytes: (chunk: Buffer) => void;
  /** Once, however it ends; not called for bytes after end(). */
  readonly onClose: () => void;
  /**
   * To send something that needs no answer. A client whose bytes are not read learns so that we are alive (client-go gives up a WebSocket after a
   * minute without a pong), and we learn whether it is: the end of a connection that is not read is seen only by writing to it.
   */
  readonly onHeartbeat: () => void;
};

const heartbeatMs = 5_000;

/** How long a client may take to close its side after ours; closing before it does could destroy what it has not read yet. */
const lingerMs = 10_000;

/** Answers (of pings, say) that a client may leave unread before we stop reading it. Data stays far below this by itself. */
const unreadAnswerBytesMax = 1_048_576;

type Waiting = { readonly parts: readonly Buffer[]; readonly resolve: (isSent: boolean) => void };

export class Wire implements Link {
  readonly #socket: Duplex;
  readonly #handlers: LinkHandlers;
  #waiting: Waiting[] = [];
  #isPausedByOwner = false;
  #isPausedByAnswers = false;
  #isEndWanted = false;
  #isEnding = false;
  #isClosed = false;
  #heartbeat: NodeJS.Timeout | undefined;
  #linger: NodeJS.Timeout | undefined;

  constructor(socket: Duplex, handlers: LinkHandlers) {
    this.#socket = socket;
    this.#handlers = handlers;
    socket.on('error', () => {});
    socket.on('close', () => this.#close());
    socket.on('drain', () => this.#drain());
  }

  /** Begins to read. @param head what was read of the connection already. */
  start(head: Buffer): void {
    // A copy: the handlers own what they get, and `head` may be part of a shared buffer.
    if (head.length > 0) this.#handlers.onBytes(Buffer.from(head));
    this.#socket.on('data', (chunk: Buffer) => {
      if (!this.#isEndWanted) this.#handlers.onBytes(chunk);
    });
    // Clients of these protocols never close one direction only: this one is gone.
    this.#socket.on('end', () => this.destroy());
    this.#applyPause();
  }

  send(parts: readonly Buffer[]): Promise<boolean> {
    if (this.#isClosed || this.#isEndWanted) return Promise.resolve(false);
    if (this.#waiting.length === 0 && !this.#socket.writableNeedDrain) {
      this.#write(parts);
      return Promise.resolve(true);
    }
    return new Promise((resolve) => this.#waiting.push({ parts, resolve }));
  }

  sendNow(parts: readonly Buffer[]): void {
    if (this.#isClosed || this.#isEnding) return;
    this.#write(parts);
    if (this.#socket.writableLength <= unreadAnswerBytesMax) return;
    this.#isPausedByAnswers = true;
    this.#applyPause();
  }

  setPaused(isPaused: boolean): void {
    if (this.#isPausedByOwner === isPaused) return;
    this.#isPausedByOwner = isPaused;
    this.#applyPause();
  }

  end(): void {
    this.#isEndWanted = true;
    if (this.#isEnding || this.#isClosed || this.#waiting.length > 0) return;
    this.#isEnding = true;
    this.#applyPause();
    this.#socket.end(() => {
      this.#linger = setTimeout(() => this.destroy(), lingerMs);
    });
  }

  destroy(): void {
    this.#socket.destroy();
    this.#close();
  }

  #write(parts: readonly Buffer[]): void {
    this.#socket.cork();
    for (const part of parts) this.#socket.write(part);
    this.#socket.uncork();
  }

  #drain(): void {
    while (this.#waiting.length > 0 && !this.#socket.writableNeedDrain) {
      const { parts, resolve } = this.#waiting.shift() as Waiting;
      this.#write(parts);
      resolve(true);
    }
    if (this.#isEndWanted) this.end();
    if (this.#isPausedByAnswers) {
      this.#isPausedByAnswers = false;
      this.#applyPause();
    }
  }

  #applyPause(): void {
    const isPaused = (this.#isPausedByOwner || this.#isPausedByAnswers) && !this.#isEndWanted && !this.#isClosed;
    if (!isPaused) {
      clearInterval(this.#heartbeat);
      this.#heartbeat = undefined;
      this.#socket.resume();
      return;
    }
    this.#socket.pause();
    this.#heartbeat ??= setInterval(() => {
      // Unsent bytes are a heartbeat already; more would only pile up.
      if (!this.#socket.writableNeedDrain) this.#handlers.onHeartbeat();
    }, heartbeatMs);
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearInterval(this.#heartbeat);
    clearTimeout(this.#linger);
    for (const { resolve } of this.#waiting.splice(0)) resolve(false);
    this.#handlers.onClose();
  }
}
