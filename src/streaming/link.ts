/**
 * An upgraded connection: reads bytes, and sends bytes in order.
 *
 * Buffers only what the socket buffers, and one chunk for each waiting sender, however slow the client is. Pure: it uses only the given socket.
 */
import type { Duplex } from 'node:stream';

/** The transport of frames: a socket, or a tunnel in another protocol. */
export type Link = {
  /** Sends after all earlier data has been written to the kernel. @returns false if the connection is closed. */
  readonly send: (parts: readonly Buffer[]) => Promise<boolean>;
  /** Sends before waiting senders, for replies that must not wait for data. */
  readonly sendNow: (parts: readonly Buffer[]) => void;
  /** Pauses or resumes reading. While paused, onHeartbeat is called periodically. */
  readonly setPaused: (isPaused: boolean) => void;
  /** Closes after all data is sent. Further incoming data is dropped. */
  readonly end: () => void;
};

export type LinkHandlers = {
  /** The handler owns the chunk. */
  readonly onBytes: (chunk: Buffer) => void;
  /** Called once, for any kind of end. After end() no more bytes are reported. */
  readonly onClose: () => void;
  /**
   * Send something that needs no reply. While reading is paused, this keeps the client connected (client-go closes a WebSocket after a minute
   * without a pong) and detects a dead client: a write is the only way to notice the end of a connection that is not read.
   */
  readonly onHeartbeat: () => void;
};

const heartbeatMs = 5_000;

/** Time for the client to close its side after ours. Destroying the socket earlier could lose data that it has not read yet. */
const lingerMs = 10_000;

/** Reading pauses while the client leaves more than this unread, for example ping replies. Data alone stays far below it. */
const unreadReplyBytesMax = 1_048_576;

type Waiting = { readonly parts: readonly Buffer[]; readonly resolve: (isSent: boolean) => void };

export class Wire implements Link {
  readonly #socket: Duplex;
  readonly #handlers: LinkHandlers;
  #waiting: Waiting[] = [];
  #isPausedByOwner = false;
  #isPausedByReplies = false;
  #isEndRequested = false;
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

  /** Starts reading. @param head bytes already read from the connection. */
  start(head: Buffer): void {
    // Copy: the handlers own their chunks, and `head` may be part of a shared buffer.
    if (head.length > 0) this.#handlers.onBytes(Buffer.from(head));
    this.#socket.on('data', (chunk: Buffer) => {
      if (!this.#isEndRequested) this.#handlers.onBytes(chunk);
    });
    // Clients of these protocols never half-close: this client has disconnected.
    this.#socket.on('end', () => this.destroy());
    this.#applyPause();
  }

  send(parts: readonly Buffer[]): Promise<boolean> {
    if (this.#isClosed || this.#isEndRequested) return Promise.resolve(false);
    if (this.#waiting.length === 0 && !this.#socket.writableNeedDrain) {
      this.#write(parts);
      return Promise.resolve(true);
    }
    return new Promise((resolve) => this.#waiting.push({ parts, resolve }));
  }

  sendNow(parts: readonly Buffer[]): void {
    if (this.#isClosed || this.#isEnding) return;
    this.#write(parts);
    if (this.#socket.writableLength <= unreadReplyBytesMax) return;
    this.#isPausedByReplies = true;
    this.#applyPause();
  }

  setPaused(isPaused: boolean): void {
    if (this.#isPausedByOwner === isPaused) return;
    this.#isPausedByOwner = isPaused;
    this.#applyPause();
  }

  end(): void {
    this.#isEndRequested = true;
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
    if (this.#isEndRequested) this.end();
    if (this.#isPausedByReplies) {
      this.#isPausedByReplies = false;
      this.#applyPause();
    }
  }

  #applyPause(): void {
    const isPaused = (this.#isPausedByOwner || this.#isPausedByReplies) && !this.#isEndRequested && !this.#isClosed;
    if (!isPaused) {
      clearInterval(this.#heartbeat);
      this.#heartbeat = undefined;
      this.#socket.resume();
      return;
    }
    this.#socket.pause();
    this.#heartbeat ??= setInterval(() => {
      // Unsent bytes already act as a heartbeat; more would only accumulate.
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
