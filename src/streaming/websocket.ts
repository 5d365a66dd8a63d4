/**
 * Parses and encodes WebSocket frames for a server (RFC 6455, section 5).
 *
 * Pure. Buffers at most one control frame. Messages are passed on in parts as they arrive, whatever their length.
 */
import { BerthError } from '../lib/errors.ts';

/** Close codes (RFC 6455, section 7.4.1). */
export const closeCode = { normal: 1000, protocolError: 1002 } as const;

const opcode = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;
const controlBytesMax = 125;
const headBytesMax = 14;

/** A received event. A message is returned in one or more parts. `bytes` are unmasked views of the parsed chunk. */
export type WebSocketEvent =
  | { readonly type: 'part'; readonly bytes: Buffer; readonly isFirst: boolean; readonly isLast: boolean }
  | { readonly type: 'ping'; readonly bytes: Buffer }
  | { readonly type: 'pong' }
  | { readonly type: 'close' };

type Frame = { readonly opcode: number; readonly isFinal: boolean; readonly mask: Buffer; bytesLeft: number; phase: number };

/** Parses the bytes of one connection. It unmasks in place, so the caller must not use the chunks afterwards. */
export class WebSocketParser {
  readonly #head = Buffer.alloc(headBytesMax);
  #headBytes = 0;
  #frame: Frame | undefined;
  #control: Buffer[] = [];
  /** The last frame of the current message has not arrived yet. */
  #isInMessage = false;
  #isFirstPart = false;

  /** @throws {BerthError} INVALID_ARGUMENT for invalid client frames. The connection must then be closed. */
  *parse(chunk: Buffer): Generator<WebSocketEvent> {
    let at = 0;
    while (at < chunk.length) {
      if (this.#frame === undefined) {
        at += this.#takeHead(chunk, at);
        if (this.#headBytes > 1 && this.#headBytes === this.#headWanted()) yield* this.#begin();
        continue;
      }
      const bytes = chunk.subarray(at, at + this.#frame.bytesLeft);
      at += bytes.length;
      yield* this.#payload(this.#frame, bytes);
    }
  }

  #takeHead(chunk: Buffer, at: number): number {
    const taken = chunk.copy(this.#head, this.#headBytes, at, at + this.#headWanted() - this.#headBytes);
    this.#headBytes += taken;
    return taken;
  }

  #headWanted(): number {
    if (this.#headBytes < 2) return 2;
    const length = (this.#head[1] ?? 0) & 0x7f;
    return 2 + (length === 126 ? 2 : length === 127 ? 8 : 0) + 4;
  }

  *#begin(): Generator<WebSocketEvent> {
    const [first = 0, second = 0] = this.#head;
    const length = payloadLength(this.#head);
    const mask = Buffer.from(this.#head.subarray(this.#headBytes - 4, this.#headBytes));
    const frame = { opcode: first & 15, isFinal: (first & 0x80) !== 0, mask, bytesLeft: length, phase: 0 };
    if ((first & 0x70) !== 0) throw invalid('reserved bits without a negotiated extension');
    if ((second & 0x80) === 0) throw invalid('missing mask');
    this.#headBytes = 0;
    this.#check(frame);
    this.#frame = frame;
    if (length === 0) yield* this.#payload(frame, Buffer.alloc(0));
  }

  #check(frame: Frame): void {
    if (frame.opcode >= 8) {
      if (!frame.isFinal || frame.bytesLeft > controlBytesMax) throw invalid('fragmented or oversized control frame');
      return;
    }
    const isContinuation = frame.opcode === opcode.continuation;
    if (isContinuation !== this.#isInMessage) throw invalid('unexpected continuation or start of a message');
    if (frame.opcode > opcode.binary) throw invalid(`unknown opcode ${frame.opcode}`);
    this.#isInMessage = !frame.isFinal;
    this.#isFirstPart ||= !isContinuation;
  }

  *#payload(frame: Frame, bytes: Buffer): Generator<WebSocketEvent> {
    unmask(bytes, frame.mask, frame.phase);
    frame.phase = (frame.phase + bytes.length) & 3;
    frame.bytesLeft -= bytes.length;
    const isDone = frame.bytesLeft === 0;
    if (isDone) this.#frame = undefined;
    if (frame.opcode < 8) {
      const isFirst = this.#isFirstPart;
      this.#isFirstPart = false;
      yield { type: 'part', bytes, isFirst, isLast: isDone && frame.isFinal };
      return;
    }
    this.#control.push(Buffer.from(bytes));
    if (isDone) yield controlEvent(frame.opcode, Buffer.concat(this.#control.splice(0)));
  }
}

function controlEvent(code: number, bytes: Buffer): WebSocketEvent {
  if (code === opcode.close) return { type: 'close' };
  if (code === opcode.ping) return { type: 'ping', bytes };
  if (code === opcode.pong) return { type: 'pong' };
  throw invalid(`unknown opcode ${code}`);
}

function payloadLength(head: Buffer): number {
  const length = (head[1] ?? 0) & 0x7f;
  if (length === 126) return head.readUInt16BE(2);
  if (length < 126) return length;
  const long = head.readBigUInt64BE(2);
  if (long > BigInt(Number.MAX_SAFE_INTEGER)) throw invalid('payload length exceeds 2^53 - 1');
  return Number(long);
}

/** Unmasks four bytes at a time where they are aligned, for the throughput of exec. */
function unmask(bytes: Buffer, mask: Buffer, phase: number): void {
  const unaligned = (4 - (bytes.byteOffset & 3)) & 3;
  if (bytes.length < unaligned + 4) {
    unmaskBytes(bytes, mask, phase);
    return;
  }
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + unaligned, (bytes.length - unaligned) >> 2);
  const rotated = Uint8Array.from([0, 1, 2, 3], (i) => mask[(phase + unaligned + i) & 3] ?? 0);
  const word = new Uint32Array(rotated.buffer)[0] ?? 0;
  for (let i = 0; i < words.length; i += 1) words[i] = (words[i] ?? 0) ^ word;
  const rest = unaligned + words.length * 4;
  unmaskBytes(bytes.subarray(0, unaligned), mask, phase);
  unmaskBytes(bytes.subarray(rest), mask, phase + rest);
}

function unmaskBytes(bytes: Buffer, mask: Buffer, phase: number): void {
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = (bytes[i] ?? 0) ^ (mask[(phase + i) & 3] ?? 0);
}

/** Returns the header of a message that is sent as one frame. @param bytes the length of the message. */
export function encodeMessageHead(bytes: number, isText: boolean): Buffer {
  return encodeHead(isText ? opcode.text : opcode.binary, bytes);
}

export function encodePong(bytes: Buffer): Buffer {
  return Buffer.concat([encodeHead(opcode.pong, bytes.length), bytes]);
}

export function encodeClose(code: number): Buffer {
  return Buffer.from([0x80 | opcode.close, 2, code >> 8, code & 0xff]);
}

function encodeHead(code: number, length: number): Buffer {
  if (length < 126) return Buffer.from([0x80 | code, length]);
  if (length < 65_536) return Buffer.from([0x80 | code, 126, length >> 8, length & 0xff]);
  const head = Buffer.alloc(10);
  head[0] = 0x80 | code;
  head[1] = 127;
  head.writeBigUInt64BE(BigInt(length), 2);
  return head;
}

const invalid = (reason: string) => new BerthError('INVALID_ARGUMENT', `WebSocket frame: ${reason}`);
