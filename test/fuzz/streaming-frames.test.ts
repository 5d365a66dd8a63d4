/** Whatever a client sends, the framing gives frames or a BerthError, and holds a bounded amount: no crash, no hang. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../src/lib/errors.ts';
import { HeaderInflater } from '../../src/streaming/header-inflater.ts';
import { ChannelParser, ResizeParser } from '../../src/streaming/remote-command.ts';
import { encodeDataHead, encodePing, encodeWindowUpdate, SpdyParser } from '../../src/streaming/spdy.ts';
import { SpdyConnection } from '../../src/streaming/spdy-connection.ts';
import { spdyDictionary } from '../../src/streaming/spdy-dictionary.ts';
import { encodeMessageHead, WebSocketParser } from '../../src/streaming/websocket.ts';
import { createRandom } from '../support/mutate.ts';

const rounds = 4000;

/** As client-go sends them. */
const synStreams = Buffer.from(
  '80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff' +
    '800300010000001700000003000000000000c22e555c92929907000000ffff',
  'hex',
);
const spdySeed = Buffer.concat([
  synStreams,
  encodeDataHead(3, 6, true),
  Buffer.from('abcdef'),
  encodePing(1),
  encodeWindowUpdate(3, 100),
  Buffer.from('80030004000000140000000200000004000000640000000700010000', 'hex'),
]);
const webSocketSeed = Buffer.concat([
  Buffer.from('818537fa213d7f9f4d5158', 'hex'),
  Buffer.from('0280000000008980000000008080000000008880000000 00'.replace(' ', ''), 'hex'),
]);

/** Some bytes changed, cut out, doubled or added. */
function changed(random: () => number, seed: Buffer): Buffer {
  let bytes = Buffer.from(seed);
  for (let changes = 1 + Math.floor(random() * 4); changes > 0; changes -= 1) {
    const at = Math.floor(random() * (bytes.length + 1));
    const end = at + Math.floor(random() * 8);
    const kind = Math.floor(random() * 4);
    if (kind === 0 && at < bytes.length) bytes[at] = Math.floor(random() * 256);
    else if (kind === 1) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
    else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
    else bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from([255, Math.floor(random() * 256), 0, 0]), bytes.subarray(at)]);
  }
  return bytes;
}

function* cut(random: () => number, bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + Math.floor(random() * 40);
    yield Buffer.from(bytes.subarray(at, at + length));
    at += length;
  }
}

function feed(chunks: Iterable<Buffer>, parse: (chunk: Buffer) => Iterable<unknown>): void {
  try {
    for (const chunk of chunks) for (const _ of parse(chunk));
  } catch (error) {
    assert.ok(error instanceof BerthError, String(error instanceof Error ? error.stack : error));
  }
}

test('changed SPDY bytes give frames or a BerthError', () => {
  const random = createRandom(1);
  for (let round = 0; round < rounds; round += 1) {
    const parser = new SpdyParser();
    feed(cut(random, changed(random, spdySeed)), (chunk) => parser.parse(chunk));
  }
});

test('changed header blocks give bounded bytes or a BerthError', () => {
  const random = createRandom(2);
  const block = synStreams.subarray(18, 49);
  for (let round = 0; round < rounds; round += 1) {
    const inflater = new HeaderInflater(spdyDictionary(), 500);
    feed([changed(random, block), changed(random, block)], (chunk) => {
      const bytes = inflater.inflate(chunk);
      assert.ok(bytes.length <= 500);
      return [];
    });
  }
});

test('changed WebSocket bytes give events or a BerthError, and what they carry becomes channels or one', () => {
  const random = createRandom(3);
  for (let round = 0; round < rounds; round += 1) {
    const parser = new WebSocketParser();
    const channels = new ChannelParser(round % 2 === 0);
    const sizes = new ResizeParser();
    feed(cut(random, changed(random, webSocketSeed)), function* (chunk) {
      for (const event of parser.parse(chunk)) {
        if (event.type === 'part') for (const { bytes } of channels.parse(event)) yield* sizes.parse(bytes);
      }
    });
  }
});

test('WebSocket frames cut anywhere carry what they carried', () => {
  const random = createRandom(4);
  for (let round = 0; round < 300; round += 1) {
    const payload = Buffer.from(Array.from({ length: Math.floor(random() * 300) }, () => Math.floor(random() * 256)));
    const mask = Buffer.from(Array.from({ length: 4 }, () => Math.floor(random() * 256)));
    const head = encodeMessageHead(payload.length, false);
    head[1] = (head[1] ?? 0) | 0x80;
    const bytes = Buffer.concat([head, mask, payload.map((byte, i) => byte ^ (mask[i & 3] ?? 0))]);
    const parser = new WebSocketParser();
    const seen: Buffer[] = [];
    feed(cut(random, bytes), function* (chunk) {
      for (const event of parser.parse(chunk)) if (event.type === 'part') seen.push(Buffer.from(event.bytes));
      yield null;
    });
    assert.deepEqual(Buffer.concat(seen), payload);
  }
});

test('a connection survives changed bytes without an exception, and says goodbye once', () => {
  const random = createRandom(5);
  for (let round = 0; round < rounds; round += 1) {
    const closes: string[] = [];
    const link = { send: async () => true, sendNow: () => {}, setPaused: () => {}, end: () => {} };
    const connection = new SpdyConnection(link, { onStream: () => {}, onClose: () => void closes.push('closed') });
    for (const chunk of cut(random, changed(random, spdySeed))) connection.receive(chunk);
    connection.lost();
    assert.equal(closes.length, 1);
  }
});

test('a stream that nobody reads stops the connection long before it costs memory, and goes on when it is read', async () => {
  const streams: { next: () => Promise<Buffer | null>; heldBytes: number }[] = [];
  let isPaused = false;
  const link = {
    send: async () => true,
    sendNow: () => {},
    setPaused: (paused: boolean) => {
      isPaused = paused;
    },
    end: () => {},
  };
  const connection = new SpdyConnection(link, { onStream: ({ inbound }) => void streams.push(inbound), onClose: () => {} });
  connection.receive(synStreams);
  const frame = Buffer.concat([encodeDataHead(3, 1, false), Buffer.from('x')]);
  let sentBytes = 0;
  for (; !isPaused && sentBytes < 1_000_000; sentBytes += 1) connection.receive(frame);
  const stdin = streams[1];
  assert.ok(isPaused);
  assert.ok(stdin && stdin.heldBytes < 600_000, `${stdin?.heldBytes}`);
  for (let taken = 0; taken < sentBytes; taken += 1) await stdin.next();
  void stdin.next();
  assert.equal(isPaused, false);
});

test('a client cannot open streams without end', () => {
  const answers: Buffer[] = [];
  const opened: unknown[] = [];
  const link = { send: async () => true, sendNow: (parts: readonly Buffer[]) => void answers.push(...parts), setPaused: () => {}, end: () => {} };
  const connection = new SpdyConnection(link, { onStream: (stream) => void opened.push(stream), onClose: () => {} });
  connection.receive(synStreams);
  // Streams with an empty header block: stored, then flushed.
  for (let id = 5; id < 10_000; id += 2) {
    const frame = Buffer.from('8003000100000018000000000000000000000004 00fbff00000000000000ffff'.replace(' ', ''), 'hex');
    frame.writeUInt32BE(id, 8);
    connection.receive(frame);
  }
  assert.ok(opened.length > 1000 && opened.length < 4000, `${opened.length}`);
  assert.ok(answers.some((answer) => answer.readUInt16BE(2) === 3 && answer.readUInt32BE(12) === 3));
});
