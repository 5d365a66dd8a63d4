/** Fuzzes the framing of streaming connections: any bytes give frames or a BerthError, with bounded memory, without a crash or a hang. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BerthError } from '../../src/lib/errors.ts';
import { HeaderInflater } from '../../src/streaming/header-inflater.ts';
import { ChannelParser, ResizeParser } from '../../src/streaming/remote-command.ts';
import { SpdyConnection } from '../../src/streaming/spdy-connection.ts';
import { spdyDictionary } from '../../src/streaming/spdy-dictionary.ts';
import { encodeDataHead, encodePing, encodeWindowUpdate, SpdyParser } from '../../src/streaming/spdy-frames.ts';
import { encodeMessageHead, WebSocketParser } from '../../src/streaming/websocket.ts';
import { createRandom } from '../support/mutate.ts';

const rounds = 4000;

/** SYN_STREAM frames of client-go. */
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

/** Returns the bytes with some of them changed, removed, duplicated or added. */
function mutate(random: () => number, seed: Buffer): Buffer {
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

test('mutated SPDY bytes give frames or a BerthError', () => {
  const random = createRandom(1);
  for (let round = 0; round < rounds; round += 1) {
    const parser = new SpdyParser();
    feed(cut(random, mutate(random, spdySeed)), (chunk) => parser.parse(chunk));
  }
});

test('mutated header blocks give a bounded number of bytes or a BerthError', () => {
  const random = createRandom(2);
  const block = synStreams.subarray(18, 49);
  for (let round = 0; round < rounds; round += 1) {
    const inflater = new HeaderInflater(spdyDictionary(), 500);
    feed([mutate(random, block), mutate(random, block)], (chunk) => {
      const bytes = inflater.inflate(chunk);
      assert.ok(bytes.length <= 500);
      return [];
    });
  }
});

test('mutated WebSocket bytes give events or a BerthError, and their payload gives channel data or a BerthError', () => {
  const random = createRandom(3);
  for (let round = 0; round < rounds; round += 1) {
    const parser = new WebSocketParser();
    const channels = new ChannelParser(round % 2 === 0);
    const sizes = new ResizeParser();
    feed(cut(random, mutate(random, webSocketSeed)), function* (chunk) {
      for (const event of parser.parse(chunk)) {
        if (event.type === 'part') for (const { bytes } of channels.parse(event)) yield* sizes.parse(bytes);
      }
    });
  }
});

test('WebSocket frames can be split anywhere', () => {
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

test('a connection with mutated bytes throws nothing and calls onClose once', () => {
  const random = createRandom(5);
  for (let round = 0; round < rounds; round += 1) {
    const closes: string[] = [];
    const link = { send: async () => true, sendNow: () => {}, setPaused: () => {}, end: () => {} };
    const connection = new SpdyConnection(link, { onStream: () => {}, onClose: () => void closes.push('closed') });
    for (const chunk of cut(random, mutate(random, spdySeed))) connection.receive(chunk);
    connection.lost();
    assert.equal(closes.length, 1);
  }
});

test('a stream that is not read pauses the connection with bounded memory, and reading it resumes the connection', async () => {
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

test('the number of streams of a connection is limited', () => {
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
