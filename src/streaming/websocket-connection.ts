/**
 * The server side of one WebSocket connection, and a tunnel for the bytes of another protocol.
 *
 * Answers pings and closes. Independent of the meaning of the messages. Pure: it uses only the given link.
 */

import type { Link } from './link.ts';
import { closeCode, encodeClose, encodeMessageHead, encodePong, type WebSocketEvent, WebSocketParser } from './websocket.ts';

export type MessagePart = WebSocketEvent & { readonly type: 'part' };

export type WebSocketHandlers = {
  readonly onPart: (part: MessagePart) => void;
  /** Called once, for any kind of end. */
  readonly onClose: () => void;
};

export class WebSocketConnection {
  readonly #link: Link;
  readonly #handlers: WebSocketHandlers;
  readonly #parser = new WebSocketParser();
  #isClosed = false;

  constructor(link: Link, handlers: WebSocketHandlers) {
    this.#link = link;
    this.#handlers = handlers;
  }

  /** Handles bytes from the client. Invalid data ends the connection. */
  receive(chunk: Buffer): void {
    if (this.#isClosed) return;
    try {
      for (const event of this.#parser.parse(chunk)) {
        if (!this.#isClosed) this.#handle(event);
      }
    } catch {
      this.close(closeCode.protocolError);
    }
  }

  /** Must be called when the link has closed. */
  lost(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#handlers.onClose();
  }

  /** Sends an unsolicited pong, which RFC 6455, section 5.5.3, allows. */
  heartbeat(): void {
    this.#link.sendNow([encodePong(Buffer.alloc(0))]);
  }

  /** Sends one message. @returns false if the connection is closed. */
  send(parts: readonly Buffer[], isText: boolean): Promise<boolean> {
    return this.#link.send(withHead(parts, isText));
  }

  sendNow(parts: readonly Buffer[]): void {
    this.#link.sendNow(withHead(parts, false));
  }

  setPaused(isPaused: boolean): void {
    this.#link.setPaused(isPaused);
  }

  /** Sends a close frame after all other data, then closes. */
  close(code: number = closeCode.normal): void {
    if (this.#isClosed) return;
    this.#link.sendNow([encodeClose(code)]);
    this.#link.end();
    this.lost();
  }

  #handle(event: WebSocketEvent): void {
    switch (event.type) {
      case 'part':
        this.#handlers.onPart(event);
        break;
      case 'ping':
        this.#link.sendNow([encodePong(event.bytes)]);
        break;
      case 'close':
        this.close();
        break;
      case 'pong':
    }
  }
}

function withHead(parts: readonly Buffer[], isText: boolean): Buffer[] {
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  return [encodeMessageHead(bytes, isText), ...parts];
}

/** Returns the byte stream carried by binary messages. Message boundaries have no meaning. */
export function tunnelThrough(connection: WebSocketConnection): Link {
  return {
    send: (parts) => connection.send(parts, false),
    sendNow: (parts) => connection.sendNow(parts),
    setPaused: (isPaused) => connection.setPaused(isPaused),
    end: () => connection.close(),
  };
}
