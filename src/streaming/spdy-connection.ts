/**
 * The server's end of one SPDY/3.1 connection: streams that the client opens, bounded memory for what they bring, flow control both ways.
 *
 * Knows nothing of what the streams mean. A stream that nobody reads stops the whole connection when it holds too much: Kubernetes' clients
 * have no flow control of single streams, so TCP's is the only one that they obey.
 */
import { Inbound } from './inbound.ts';
import {
  encodeDataHead,
  encodeGoAway,
  encodePing,
  encodeRstStream,
  encodeSynReply,
  encodeWindowUpdate,
  goAwayStatus,
  resetStatus,
  type SpdyFrame,
  type SpdyHeaders,
  SpdyParser,
} from './spdy.ts';
import type { Link } from './wire.ts';

/** Streams that a client may have open. A port-forward uses two for each connection. */
const streamsMax = 2048;

/** What streams may hold before the connection is not read further: one alone, and all together. */
const streamHeldBytesMax = 262_144;
const connectionHeldBytesMax = 1_048_576;

/** SPDY/3.1's window where SETTINGS say nothing else (2.6.8). */
const initialWindowBytes = 65_536;

/** Bytes taken before the client is told that there is room again. */
const windowUpdateBytes = 32_768;

/** Longest frame of data that we send, so that streams take turns. */
const dataFrameBytesMax = 65_536;

const empty = Buffer.alloc(0);

export type SpdyHandlers = {
  /** A new stream, replied to already. */
  readonly onStream: (stream: SpdyStream) => void;
  /** The connection is over; the inbound side of every stream has ended. */
  readonly onClose: () => void;
};

/** One stream. Made by its connection alone. */
export class SpdyStream {
  readonly id: number;
  readonly headers: SpdyHeaders;
  readonly inbound: Inbound;
  /** Resolves when the stream is over by a reset of either side or the end of the connection. */
  readonly broken: Promise<void>;
  readonly #connection: SpdyConnection;
  #markBroken: () => void = () => {};
  #isLocalEnded: boolean;
  #isBroken = false;
  /** Bytes that a client with flow control still takes, and bytes taken from it since it was told last. */
  windowBytes: number;
  #untoldBytes = 0;

  constructor(connection: SpdyConnection, frame: SpdyFrame & { readonly type: 'syn-stream' }, windowBytes: number) {
    this.id = frame.streamId;
    this.headers = frame.headers;
    this.#connection = connection;
    this.#isLocalEnded = frame.isUnidirectional;
    this.windowBytes = windowBytes;
    this.inbound = new Inbound((bytes) => this.#taken(bytes));
    this.broken = new Promise((resolve) => {
      this.#markBroken = resolve;
    });
    if (frame.isFin) this.inbound.end();
  }

  get isBroken(): boolean {
    return this.#isBroken;
  }

  get isLocalEnded(): boolean {
    return this.#isLocalEnded;
  }

  /** Sends, when the client has room. @returns false when the stream is over. */
  async write(chunk: Buffer): Promise<boolean> {
    for (let at = 0; at < chunk.length; ) {
      if (this.#isLocalEnded) return false;
      const room = await this.#connection.room(this);
      const part = chunk.subarray(at, at + Math.min(room, dataFrameBytesMax));
      at += part.length;
      if (this.#isLocalEnded || !(await this.#connection.sendData(this, part))) return false;
    }
    return !this.#isLocalEnded;
  }

  /** No more will be written. Idempotent. */
  end(): void {
    if (this.#isLocalEnded) return;
    this.#isLocalEnded = true;
    this.#connection.sendNow(encodeDataHead(this.id, 0, true));
    this.#connection.forgetIfDone(this);
  }

  /** Ends both directions at once, unless both have ended. The connection and its other streams go on. */
  reset(status: number = resetStatus.cancel): void {
    if (this.#isBroken || (this.#isLocalEnded && this.inbound.isEnded)) return;
    this.#connection.sendNow(encodeRstStream(this.id, status));
    this.break();
    this.#connection.forgetIfDone(this);
  }

  /** The client's reset, or the end of the connection. */
  break(): void {
    this.#isBroken = true;
    this.#isLocalEnded = true;
    this.inbound.end();
    this.inbound.discard();
    this.#markBroken();
  }

  #taken(bytes: number): void {
    this.#untoldBytes += bytes;
    if (this.#untoldBytes >= windowUpdateBytes && !this.inbound.isEnded) {
      this.#connection.sendNow(encodeWindowUpdate(this.id, this.#untoldBytes));
      this.#untoldBytes = 0;
    }
    this.#connection.taken(this, bytes);
  }
}

export class SpdyConnection {
  readonly #link: Link;
  readonly #handlers: SpdyHandlers;
  readonly #parser = new SpdyParser();
  readonly #streams = new Map<number, SpdyStream>();
  /** Streams that hold more than they may. */
  readonly #full = new Set<SpdyStream>();
  readonly #heldBytes = new Map<SpdyStream, number>();
  #allHeldBytes = 0;
  #lastStreamId = 0;
  #hasReplied = false;
  #isGoingAway = false;
  #isClosed = false;
  #untoldBytes = 0;
  /**
   * Windows are counted from the beginning but kept only for a client that shows that it has some, by WINDOW_UPDATE or SETTINGS:
   * Kubernetes' clients never announce room, so whoever waited for it would stop after 64 KiB.
   */
  #hasFlowControl = false;
  #windowBytes = initialWindowBytes;
  #streamWindowBytes = initialWindowBytes;
  #roomWaiters: (() => void)[] = [];

  constructor(link: Link, handlers: SpdyHandlers) {
    this.#link = link;
    this.#handlers = handlers;
  }

  /** Bytes from the client. Nonsense ends the connection. */
  receive(chunk: Buffer): void {
    if (this.#isClosed) return;
    try {
      for (const frame of this.#parser.parse(chunk)) this.#handle(frame);
    } catch {
      this.#end(goAwayStatus.protocolError);
    }
  }

  /** To be called when the link is over. */
  lost(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const stream of this.#streams.values()) stream.break();
    this.#streams.clear();
    this.#wakeRoomWaiters();
    this.#handlers.onClose();
  }

  heartbeat(): void {
    // Even: a ping of the server.
    this.#link.sendNow([encodePing(2)]);
  }

  /** Says goodbye after all that was sent, then ends. */
  close(): void {
    this.#end(goAwayStatus.ok);
  }

  sendNow(frame: Buffer): void {
    this.#link.sendNow([frame]);
  }

  sendData(stream: SpdyStream, bytes: Buffer): Promise<boolean> {
    stream.windowBytes -= bytes.length;
    this.#windowBytes -= bytes.length;
    return this.#link.send([encodeDataHead(stream.id, bytes.length, false), bytes]);
  }

  /** Waits until the client takes data of this stream. @returns how many bytes. */
  async room(stream: SpdyStream): Promise<number> {
    while (this.#hasFlowControl && !this.#isClosed && !stream.isLocalEnded) {
      const room = Math.min(stream.windowBytes, this.#windowBytes);
      if (room > 0) return room;
      await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    }
    return dataFrameBytesMax;
  }

  taken(stream: SpdyStream, bytes: number): void {
    this.#untoldBytes += bytes;
    if (this.#untoldBytes >= windowUpdateBytes) {
      this.#link.sendNow([encodeWindowUpdate(0, this.#untoldBytes)]);
      this.#untoldBytes = 0;
    }
    this.#account(stream);
  }

  forgetIfDone(stream: SpdyStream): void {
    if (!stream.isLocalEnded || !stream.inbound.isEnded) return;
    this.#streams.delete(stream.id);
    this.#wakeRoomWaiters();
    if (this.#isGoingAway && this.#streams.size === 0) this.close();
  }

  #handle(frame: SpdyFrame): void {
    switch (frame.type) {
      case 'syn-stream':
        this.#open(frame);
        break;
      case 'data':
        this.#data(frame.streamId, frame.bytes, frame.isFin);
        break;
      case 'headers':
        this.#data(frame.streamId, empty, frame.isFin);
        break;
      case 'rst-stream':
        this.#reset(frame.streamId);
        break;
      case 'ping':
        // Odd: a ping of the client; even: its answer to ours.
        if (frame.id % 2 === 1) this.#link.sendNow([encodePing(frame.id)]);
        break;
      case 'settings':
        this.#settings(frame.initialWindowBytes);
        break;
      case 'window-update':
        this.#windowUpdate(frame.streamId, frame.deltaBytes);
        break;
      case 'go-away':
        this.#isGoingAway = true;
        if (this.#streams.size === 0) this.close();
    }
  }

  #open(frame: SpdyFrame & { readonly type: 'syn-stream' }): void {
    const { streamId } = frame;
    if (streamId % 2 === 0 || streamId <= this.#lastStreamId) {
      this.sendNow(encodeRstStream(streamId, resetStatus.protocolError));
      return;
    }
    this.#lastStreamId = streamId;
    if (this.#isGoingAway || this.#streams.size >= streamsMax) {
      this.sendNow(encodeRstStream(streamId, resetStatus.refusedStream));
      return;
    }
    const stream = new SpdyStream(this, frame, this.#streamWindowBytes);
    this.#streams.set(streamId, stream);
    // Before anything else on the stream: clients drop data of a stream that is not replied to.
    this.sendNow(encodeSynReply(streamId, !this.#hasReplied));
    this.#hasReplied = true;
    this.#handlers.onStream(stream);
  }

  #data(streamId: number, bytes: Buffer, isFin: boolean): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      // What was under way when a stream was reset is no error.
      if (streamId > this.#lastStreamId) this.sendNow(encodeRstStream(streamId, resetStatus.invalidStream));
      return;
    }
    stream.inbound.push(bytes);
    if (isFin) stream.inbound.end();
    this.#account(stream);
    if (isFin) this.forgetIfDone(stream);
  }

  #reset(streamId: number): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) return;
    stream.break();
    this.forgetIfDone(stream);
  }

  #settings(windowBytes: number | undefined): void {
    if (windowBytes === undefined) return;
    this.#hasFlowControl = true;
    for (const stream of this.#streams.values()) stream.windowBytes += windowBytes - this.#streamWindowBytes;
    this.#streamWindowBytes = windowBytes;
    this.#wakeRoomWaiters();
  }

  #windowUpdate(streamId: number, deltaBytes: number): void {
    this.#hasFlowControl = true;
    if (streamId === 0) this.#windowBytes += deltaBytes;
    const stream = this.#streams.get(streamId);
    if (stream !== undefined) stream.windowBytes += deltaBytes;
    if (Math.max(this.#windowBytes, stream?.windowBytes ?? 0) > 0x7fffffff) throw new Error('a window overflows');
    this.#wakeRoomWaiters();
  }

  #wakeRoomWaiters(): void {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }

  /** Adds up what streams hold, and stops or starts reading. */
  #account(stream: SpdyStream): void {
    const { heldBytes } = stream.inbound;
    this.#allHeldBytes += heldBytes - (this.#heldBytes.get(stream) ?? 0);
    if (heldBytes === 0) this.#heldBytes.delete(stream);
    else this.#heldBytes.set(stream, heldBytes);
    if (heldBytes > streamHeldBytesMax) this.#full.add(stream);
    else this.#full.delete(stream);
    this.#link.setPaused(this.#full.size > 0 || this.#allHeldBytes > connectionHeldBytesMax);
  }

  #end(status: number): void {
    if (this.#isClosed) return;
    this.#link.sendNow([encodeGoAway(this.#lastStreamId, status)]);
    this.#link.end();
    this.lost();
  }
}
