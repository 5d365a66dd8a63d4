/**
 * The server side of one SPDY/3.1 connection: the streams that the client opens, with bounded receive queues and flow control in both directions.
 *
 * Independent of the meaning of the streams. If the queue of one stream is full, reading from the whole connection stops: Kubernetes clients do not
 * implement flow control per stream, so only that of TCP works. Pure: it uses only the given link.
 */
import { Inbound } from './inbound.ts';
import type { Link } from './link.ts';
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
} from './spdy-frames.ts';

/** Open streams per client. A port-forward uses two for each connection. */
const streamsMax = 2048;

/** The connection is not read while one stream, or all together, hold more than this. */
const streamHeldBytesMax = 262_144;
const connectionHeldBytesMax = 1_048_576;

/** The default window of SPDY/3.1 (section 2.6.8). */
const initialWindowBytes = 65_536;

/** Bytes processed before a WINDOW_UPDATE is sent. */
const windowUpdateBytes = 32_768;

/** The largest data frame sent, so that streams can interleave. */
const dataFrameBytesMax = 65_536;

const empty = Buffer.alloc(0);

export type SpdyHandlers = {
  /** A new stream. SYN_REPLY is already sent. */
  readonly onStream: (stream: SpdyStream) => void;
  /** The connection has closed, and the inbound side of every stream has ended. */
  readonly onClose: () => void;
};

/** One stream. Created by its connection only. */
export class SpdyStream {
  readonly id: number;
  readonly headers: SpdyHeaders;
  readonly inbound: Inbound;
  /** Resolves when either side resets the stream, or the connection closes. */
  readonly broken: Promise<void>;
  readonly #connection: SpdyConnection;
  #markBroken: () => void = () => {};
  #isLocalEnded: boolean;
  #isBroken = false;
  /** The send window, for a client with flow control. */
  windowBytes: number;
  /** Bytes processed since the last WINDOW_UPDATE. */
  #unacknowledgedBytes = 0;

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

  /** Sends data when the client's window allows. @returns false if the stream is closed. */
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

  /** Ends the outbound side. Idempotent. */
  end(): void {
    if (this.#isLocalEnded) return;
    this.#isLocalEnded = true;
    this.#connection.sendNow(encodeDataHead(this.id, 0, true));
    this.#connection.forgetIfDone(this);
  }

  /** Ends both directions immediately, unless both have ended. Other streams continue. */
  reset(status: number = resetStatus.cancel): void {
    if (this.#isBroken || (this.#isLocalEnded && this.inbound.isEnded)) return;
    this.#connection.sendNow(encodeRstStream(this.id, status));
    this.break();
    this.#connection.forgetIfDone(this);
  }

  /** Handles a reset by the client, or the end of the connection. */
  break(): void {
    this.#isBroken = true;
    this.#isLocalEnded = true;
    this.inbound.end();
    this.inbound.discard();
    this.#markBroken();
  }

  #taken(bytes: number): void {
    this.#unacknowledgedBytes += bytes;
    if (this.#unacknowledgedBytes >= windowUpdateBytes && !this.inbound.isEnded) {
      this.#connection.sendNow(encodeWindowUpdate(this.id, this.#unacknowledgedBytes));
      this.#unacknowledgedBytes = 0;
    }
    this.#connection.taken(this, bytes);
  }
}

export class SpdyConnection {
  readonly #link: Link;
  readonly #handlers: SpdyHandlers;
  readonly #parser = new SpdyParser();
  readonly #streams = new Map<number, SpdyStream>();
  /** Streams over their limit. */
  readonly #full = new Set<SpdyStream>();
  readonly #heldBytes = new Map<SpdyStream, number>();
  #allHeldBytes = 0;
  #lastStreamId = 0;
  #hasReplied = false;
  #isGoingAway = false;
  #isClosed = false;
  #unacknowledgedBytes = 0;
  /**
   * Windows are counted from the start, but enforced only after the client has sent WINDOW_UPDATE or SETTINGS: Kubernetes clients never
   * send them, so a sender that waits for them would stop after 64 KiB.
   */
  #hasFlowControl = false;
  #windowBytes = initialWindowBytes;
  #streamWindowBytes = initialWindowBytes;
  #roomWaiters: (() => void)[] = [];

  constructor(link: Link, handlers: SpdyHandlers) {
    this.#link = link;
    this.#handlers = handlers;
  }

  /** Handles bytes from the client. Invalid data ends the connection. */
  receive(chunk: Buffer): void {
    if (this.#isClosed) return;
    try {
      for (const frame of this.#parser.parse(chunk)) this.#handle(frame);
    } catch {
      this.#end(goAwayStatus.protocolError);
    }
  }

  /** Must be called when the link has closed. */
  lost(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const stream of this.#streams.values()) stream.break();
    this.#streams.clear();
    this.#wakeRoomWaiters();
    this.#handlers.onClose();
  }

  heartbeat(): void {
    // Even ids are pings by the server.
    this.#link.sendNow([encodePing(2)]);
  }

  /** Sends GOAWAY after all other data, then closes. */
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

  /** Waits until the client's window allows data on this stream. @returns the number of bytes. */
  async room(stream: SpdyStream): Promise<number> {
    while (this.#hasFlowControl && !this.#isClosed && !stream.isLocalEnded) {
      const room = Math.min(stream.windowBytes, this.#windowBytes);
      if (room > 0) return room;
      await new Promise<void>((resolve) => this.#roomWaiters.push(resolve));
    }
    return dataFrameBytesMax;
  }

  taken(stream: SpdyStream, bytes: number): void {
    this.#unacknowledgedBytes += bytes;
    if (this.#unacknowledgedBytes >= windowUpdateBytes) {
      this.#link.sendNow([encodeWindowUpdate(0, this.#unacknowledgedBytes)]);
      this.#unacknowledgedBytes = 0;
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
        // Odd ids are pings by the client, even ids replies to ours.
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
    // Must come first on the stream: clients drop data before the reply.
    this.sendNow(encodeSynReply(streamId, !this.#hasReplied));
    this.#hasReplied = true;
    this.#handlers.onStream(stream);
  }

  #data(streamId: number, bytes: Buffer, isFin: boolean): void {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) {
      // Data in flight when a stream was reset is not an error.
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
    if (Math.max(this.#windowBytes, stream?.windowBytes ?? 0) > 0x7fffffff) throw new Error('flow control window overflow');
    this.#wakeRoomWaiters();
  }

  #wakeRoomWaiters(): void {
    for (const wake of this.#roomWaiters.splice(0)) wake();
  }

  /** Updates the total held by streams, and pauses or resumes reading. */
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
