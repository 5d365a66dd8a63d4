import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../lib/errors.ts';
import { encodeClose, encodeMessageHead, encodePong, type WebSocketEvent, WebSocketParser } from './websocket.ts';

/** The masked "Hello" of RFC 6455, section 5.7. */
const maskedHello = '818537fa213d7f9f4d5158';

const parseAll = (bytes: Buffer, chunkBytes = bytes.length): WebSocketEvent[] => {
  const parser = new WebSocketParser();
  const events: WebSocketEvent[] = [];
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    for (const event of parser.parse(Buffer.from(bytes.subarray(at, at + chunkBytes)))) {
      events.push('bytes' in event ? { ...event, bytes: Buffer.from(event.bytes) } : event);
    }
  }
  return events;
};

/** A frame as sent by a client. */
function frame(code: number, payload: Buffer, { isFinal = true, mask = Buffer.from([1, 2, 3, 4]) } = {}): Buffer {
  const head = encodeMessageHead(payload.length, false);
  head[0] = (isFinal ? 0x80 : 0) | code;
  head[1] = (head[1] ?? 0) | 0x80;
  return Buffer.concat([head, mask, payload.map((byte, i) => byte ^ (mask[i & 3] ?? 0))]);
}

const contentOf = (events: readonly WebSocketEvent[]) => Buffer.concat(events.flatMap((event) => (event.type === 'part' ? [event.bytes] : [])));

test('WebSocketParser unmasks the example in the RFC', () => {
  assert.deepEqual(parseAll(Buffer.from(maskedHello, 'hex')), [{ type: 'part', bytes: Buffer.from('Hello'), isFirst: true, isLast: true }]);
});

test('WebSocketParser returns the same content independent of chunk boundaries', () => {
  const payload = Buffer.from(Array.from({ length: 70_001 }, (_, i) => i % 251));
  const bytes = Buffer.concat([frame(2, payload.subarray(0, 300)), frame(2, payload.subarray(300, 310)), frame(2, payload.subarray(310))]);
  for (const chunkBytes of [1, 2, 3, 5, 7, 64, 1000, 65_536])
    assert.deepEqual(contentOf(parseAll(bytes, chunkBytes)), payload, `cut by ${chunkBytes}`);
});

test('WebSocketParser marks the first and last part of a fragmented message with a ping inside', () => {
  const bytes = Buffer.concat([
    frame(2, Buffer.from('a'), { isFinal: false }),
    frame(9, Buffer.from('hi')),
    frame(0, Buffer.from('b'), { isFinal: false }),
    frame(0, Buffer.alloc(0)),
  ]);
  assert.deepEqual(parseAll(bytes), [
    { type: 'part', bytes: Buffer.from('a'), isFirst: true, isLast: false },
    { type: 'ping', bytes: Buffer.from('hi') },
    { type: 'part', bytes: Buffer.from('b'), isFirst: false, isLast: false },
    { type: 'part', bytes: Buffer.alloc(0), isFirst: false, isLast: true },
  ]);
});

test('WebSocketParser refuses invalid client frames', () => {
  const refused = {
    'not masked': Buffer.from('8105', 'hex'),
    'reserved bit': Buffer.from('c18500000000', 'hex'),
    'continuation without a message': frame(0, Buffer.from('x')),
    'message inside a message': Buffer.concat([frame(2, Buffer.from('x'), { isFinal: false }), frame(2, Buffer.from('y'))]),
    'fragmented ping': frame(9, Buffer.from('x'), { isFinal: false }),
    'ping of 126 bytes': frame(9, Buffer.alloc(126)),
    'unknown opcode': frame(3, Buffer.from('x')),
    'unknown control opcode': frame(11, Buffer.from('x')),
    'length above 2^53 - 1': Buffer.from('82ffffffffffffffffff00000000', 'hex'),
  };
  for (const [name, bytes] of Object.entries(refused)) {
    const padded = Buffer.concat([bytes, Buffer.alloc(16)]);
    assert.throws(() => parseAll(padded), BerthError, name);
  }
});

test('frames to the client are unmasked and encode their length in the shortest form', () => {
  assert.equal(encodeMessageHead(125, false).toString('hex'), '827d');
  assert.equal(encodeMessageHead(126, true).toString('hex'), '817e007e');
  assert.equal(encodeMessageHead(65_535, false).toString('hex'), '827effff');
  assert.equal(encodeMessageHead(65_536, false).toString('hex'), '827f0000000000010000');
  assert.equal(encodePong(Buffer.from('hi')).toString('hex'), '8a026869');
  assert.equal(encodeClose(1000).toString('hex'), '880203e8');
});
