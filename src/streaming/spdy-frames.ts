/**
 * Parses and encodes SPDY/3.1 frames. Source: the SPDY/3 and 3.1 drafts of the Chromium project, section 2.6.
 *
 *   control: |1 version(15) type(16)| flags(8) length(24) | payload        data: |0 stream(31)| flags(8) length(24) | payload
 *
 * Pure. Buffers at most one control frame. Data frames are passed on in parts as they arrive, whatever their length.
 */
import { BerthError } from '../lib/errors.ts';
import { HeaderInflater } from './header-inflater.ts';
import { spdyDictionary } from './spdy-dictionary.ts';

const version = 3;
const frameHeadBytes = 8;

/** Longer control frames are refused. Kubernetes clients send less than 200 bytes. */
const controlBytesMax = 16_384;

/** The limit for a decompressed header block. */
const headerBlockBytesMax = 4096;

/** Status codes of RST_STREAM (section 2.6.3). */
export const resetStatus = { protocolError: 1, invalidStream: 2, refusedStream: 3, cancel: 5, flowControlError: 7 } as const;

/** Status codes of GOAWAY (section 2.6.6). */
export const goAwayStatus = { ok: 0, protocolError: 1 } as const;

const frameType = { synStream: 1, synReply: 2, rstStream: 3, settings: 4, ping: 6, goAway: 7, headers: 8, windowUpdate: 9 } as const;
const settingInitialWindowSize = 7;
const flagFin = 1;
const flagUnidirectional = 2;

/** Names are lower case. Several values of a name are joined by NUL. */
export type SpdyHeaders = ReadonlyMap<string, string>;

/** A received frame. `bytes` are views of the parsed chunk. */
export type SpdyFrame =
  | {
      readonly type: 'syn-stream';
      readonly streamId: number;
      readonly headers: SpdyHeaders;
      readonly isFin: boolean;
      readonly isUnidirectional: boolean;
    }
  | { readonly type: 'data'; readonly streamId: number; readonly bytes: Buffer; readonly isFin: boolean }
  | { readonly type: 'rst-stream'; readonly streamId: number; readonly status: number }
  | { readonly type: 'headers'; readonly streamId: number; readonly isFin: boolean }
  | { readonly type: 'settings'; readonly initialWindowBytes: number | undefined }
  | { readonly type: 'ping'; readonly id: number }
  | { readonly type: 'go-away' }
  | { readonly type: 'window-update'; readonly streamId: number; readonly deltaBytes: number };

type Control = { readonly type: number; readonly flags: number; readonly payload: Buffer };

/** Parses the bytes of one connection. A data frame may be returned in several parts; only the last has the `isFin` of the frame. */
export class SpdyParser {
  readonly #inflater = new HeaderInflater(spdyDictionary(), headerBlockBytesMax);
  readonly #held = Buffer.alloc(frameHeadBytes + controlBytesMax);
  #heldBytes = 0;
  #data: { readonly streamId: number; readonly isFin: boolean; bytesLeft: number } | undefined;

  /** @throws {BerthError} INVALID_ARGUMENT for invalid SPDY/3.1. The connection must then be closed. */
  *parse(chunk: Buffer): Generator<SpdyFrame> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#data !== undefined) {
        const bytes = chunk.subarray(at, at + this.#data.bytesLeft);
        at += bytes.length;
        yield* this.#dataPart(this.#data, bytes);
        continue;
      }
      at += this.#hold(chunk.subarray(at));
      if (this.#isFrameHeld()) yield* this.#heldFrame();
    }
  }

  /** @returns the number of bytes consumed. */
  #hold(chunk: Buffer): number {
    const taken = chunk.copy(this.#held, this.#heldBytes, 0, this.#wantedBytes() - this.#heldBytes);
    this.#heldBytes += taken;
    return taken;
  }

  #wantedBytes(): number {
    if (this.#heldBytes < frameHeadBytes || !this.#isControl()) return frameHeadBytes;
    const length = this.#held.readUIntBE(5, 3);
    if (length > controlBytesMax) throw invalid(`control frame of ${length} bytes exceeds ${controlBytesMax}`);
    return frameHeadBytes + length;
  }

  #isControl(): boolean {
    return ((this.#held[0] ?? 0) & 0x80) !== 0;
  }

  #isFrameHeld(): boolean {
    return this.#heldBytes >= frameHeadBytes && this.#heldBytes === this.#wantedBytes();
  }

  *#heldFrame(): Generator<SpdyFrame> {
    const flags = this.#held[4] ?? 0;
    const length = this.#held.readUIntBE(5, 3);
    const isControl = this.#isControl();
    this.#heldBytes = 0;
    if (isControl) {
      if ((this.#held.readUInt16BE(0) & 0x7fff) !== version) throw invalid(`unsupported version ${this.#held.readUInt16BE(0) & 0x7fff}`);
      const payload = this.#held.subarray(frameHeadBytes, frameHeadBytes + length);
      const frame = this.#control({ type: this.#held.readUInt16BE(2), flags, payload });
      if (frame !== undefined) yield frame;
      return;
    }
    const data = { streamId: this.#held.readUInt32BE(0), isFin: (flags & flagFin) !== 0, bytesLeft: length };
    if (length > 0) this.#data = data;
    else yield* this.#dataPart(data, Buffer.alloc(0));
  }

  *#dataPart(data: { readonly streamId: number; readonly isFin: boolean; bytesLeft: number }, bytes: Buffer): Generator<SpdyFrame> {
    data.bytesLeft -= bytes.length;
    if (data.bytesLeft === 0) this.#data = undefined;
    yield { type: 'data', streamId: data.streamId, bytes, isFin: data.isFin && data.bytesLeft === 0 };
  }

  #control({ type, flags, payload }: Control): SpdyFrame | undefined {
    const isFin = (flags & flagFin) !== 0;
    switch (type) {
      case frameType.synStream: {
        const headers = this.#headers(payload, 10);
        return { type: 'syn-stream', streamId: streamIdAt(payload, 0), headers, isFin, isUnidirectional: (flags & flagUnidirectional) !== 0 };
      }
      // The headers are not used, but must be decompressed: the compression window includes them.
      case frameType.synReply:
      case frameType.headers:
        this.#headers(payload, 4);
        return { type: 'headers', streamId: streamIdAt(payload, 0), isFin };
      case frameType.rstStream:
        return { type: 'rst-stream', streamId: streamIdAt(payload, 0), status: wordAt(payload, 4) };
      case frameType.settings:
        return { type: 'settings', initialWindowBytes: initialWindowOf(payload) };
      case frameType.ping:
        return { type: 'ping', id: wordAt(payload, 0) };
      case frameType.goAway:
        return { type: 'go-away' };
      case frameType.windowUpdate:
        return { type: 'window-update', streamId: streamIdAt(payload, 0), deltaBytes: streamIdAt(payload, 4) };
      default:
        // Unknown types must be ignored (section 2.2.1).
        return undefined;
    }
  }

  #headers(payload: Buffer, offset: number): SpdyHeaders {
    if (payload.length < offset) throw invalid('truncated control frame');
    return parseHeaders(this.#inflater.inflate(payload.subarray(offset)));
  }
}

function parseHeaders(block: Buffer): SpdyHeaders {
  const headers = new Map<string, string>();
  let at = 4;
  const text = () => {
    const length = wordAt(block, at);
    if (length > block.length - at - 4) throw invalid('truncated header');
    const value = block.toString('latin1', at + 4, at + 4 + length);
    at += 4 + length;
    return value;
  };
  for (let count = wordAt(block, 0); count > 0; count -= 1) headers.set(text().toLowerCase(), text());
  return headers;
}

function initialWindowOf(payload: Buffer): number | undefined {
  const count = wordAt(payload, 0);
  if (payload.length < 4 + count * 8) throw invalid('truncated SETTINGS');
  for (let at = 4; at < 4 + count * 8; at += 8) {
    if (payload.readUIntBE(at + 1, 3) === settingInitialWindowSize) return streamIdAt(payload, at + 4);
  }
  return undefined;
}

function wordAt(payload: Buffer, at: number): number {
  if (payload.length < at + 4) throw invalid('truncated control frame');
  return payload.readUInt32BE(at);
}

const streamIdAt = (payload: Buffer, at: number) => wordAt(payload, at) & 0x7fffffff;

/**
 * Returns a SYN_REPLY without headers. Its header block is stored, not compressed, so that the connection needs no compressor.
 * @param isFirst whether this is the first reply of the connection, which starts the zlib stream.
 */
export function encodeSynReply(streamId: number, isFirst: boolean): Buffer {
  const streamHead = isFirst ? [0x78, 0x01] : [];
  const storedBlock = [0x00, 0x04, 0x00, 0xfb, 0xff, ...wordOf(0)];
  // An empty block as flush marker: Go's decompressor returns nothing before it.
  const flush = [0x00, 0x00, 0x00, 0xff, 0xff];
  return encodeControl(frameType.synReply, [...wordOf(streamId), ...streamHead, ...storedBlock, ...flush]);
}

export function encodeRstStream(streamId: number, status: number): Buffer {
  return encodeControl(frameType.rstStream, [...wordOf(streamId), ...wordOf(status)]);
}

export function encodePing(id: number): Buffer {
  return encodeControl(frameType.ping, wordOf(id));
}

export function encodeGoAway(lastStreamId: number, status: number): Buffer {
  return encodeControl(frameType.goAway, [...wordOf(lastStreamId), ...wordOf(status)]);
}

/** @param streamId 0 for the connection. */
export function encodeWindowUpdate(streamId: number, deltaBytes: number): Buffer {
  return encodeControl(frameType.windowUpdate, [...wordOf(streamId), ...wordOf(deltaBytes)]);
}

/** Returns the header of a data frame. @param bytes the length of the data, less than 16 MiB. */
export function encodeDataHead(streamId: number, bytes: number, isFin: boolean): Buffer {
  // allocUnsafe uses Node's buffer pool; every byte is written below.
  const head = Buffer.allocUnsafe(frameHeadBytes);
  head.writeUInt32BE(streamId, 0);
  head[4] = isFin ? flagFin : 0;
  head.writeUIntBE(bytes, 5, 3);
  return head;
}

function encodeControl(type: number, payload: readonly number[]): Buffer {
  return Buffer.from([0x80, version, type >> 8, type & 0xff, 0, 0, payload.length >> 8, payload.length & 0xff, ...payload]);
}

function wordOf(value: number): number[] {
  return [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

const invalid = (reason: string) => new BerthError('INVALID_ARGUMENT', `SPDY frame: ${reason}`);
